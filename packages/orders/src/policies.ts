/** What holds for orders of one kind. All times are ms. */
export interface Policy {
  /** The rule it comes from, `defaults` where none matched. */
  readonly name: string;
  /** How long a customer has to pay. Null: for ever. */
  readonly windowMs: number | null;
  /** What is added behind the deadline before the order may be cancelled. */
  readonly graceMs: number;
  /** How long before the deadline a customer is reminded, the first to be sent first. */
  readonly reminders: readonly number[];
  /** How often an order may be extended, and how far beyond its first deadline in all. Null: as often, as far as wished. */
  readonly extension: { readonly maxCount: number | null; readonly maxTotalMs: number | null };
  /** What happens to money for an order that is already cancelled; docs/policies.md says it in full. */
  readonly lateMoney: 'refund' | 'reinstate' | 'manual';
  /** How long money may be on its way before ops are told. */
  readonly processingMs: number;
}

/** A policy and the orders that it is for. */
export interface Rule {
  /** Null: any. */
  readonly channels: ReadonlySet<string> | null;
  /** Null: any. */
  readonly paymentMethods: ReadonlySet<string> | null;
  readonly policy: Policy;
}

/** Rules in their order, the first that matches wins, and what holds where none does. */
export interface Policies {
  readonly rules: readonly Rule[];
  readonly defaults: Policy;
}

/** What a policy is chosen by. */
export interface OrderKind {
  readonly channel: string;
  readonly paymentMethod: string;
}

/** The name of what holds where no rule matches. */
export const defaultsName = 'defaults';

/** The policies of a shop that has no file of its own. */
export const defaultPolicies: Policies = {
  rules: [],
  defaults: {
    name: defaultsName,
    windowMs: 30 * 60_000,
    graceMs: 0,
    reminders: [],
    extension: { maxCount: null, maxTotalMs: null },
    lateMoney: 'refund',
    processingMs: 14 * 86_400_000,
  },
};

/** The policy for an order: that of the first rule that matches, else the defaults. */
export function policyFor({ rules, defaults }: Policies, kind: OrderKind): Policy {
  return rules.find((rule) => matches(rule, kind))?.policy ?? defaults;
}

/** The policy for an order, and why each rule before it was passed over. */
export function explainPolicy(
  policies: Policies,
  kind: OrderKind,
): { readonly policy: Policy; readonly passedOver: readonly { name: string; reason: string }[] } {
  const { rules } = policies;
  const matching = rules.findIndex((rule) => matches(rule, kind));
  const passedOver = matching < 0 ? rules : rules.slice(0, matching);
  return {
    policy: policyFor(policies, kind),
    passedOver: passedOver.map((rule) => ({ name: rule.policy.name, reason: whyNot(rule, kind) })),
  };
}

function whyNot({ channels, paymentMethods }: Rule, { channel, paymentMethod }: OrderKind): string {
  const differing = [
    has(channels, channel) ? [] : `channel ${channel} is not ${either(channels)}`,
    has(paymentMethods, paymentMethod)
      ? []
      : `payment method ${paymentMethod} is not ${either(paymentMethods)}`,
  ];
  return differing.flat().join(', ');
}

const either = (names: ReadonlySet<string> | null): string => [...(names ?? [])].join(' or ');

/** A name, or null for one that no rule gives. */
type Name = string | null;

const has = (names: ReadonlySet<string> | null, name: Name): boolean =>
  names === null || (name !== null && names.has(name));

const matches = (
  { channels, paymentMethods }: Rule,
  { channel, paymentMethod }: { channel: Name; paymentMethod: Name },
): boolean => has(channels, channel) && has(paymentMethods, paymentMethod);

/** Names the rules that can never match, because those before them take every order that they would. */
export function shadowWarnings(rules: readonly Rule[]): string[] {
  return rules.flatMap((rule, n) => {
    const covering = coveringRules(rule, rules.slice(0, n));
    if (covering === undefined) return [];
    const before = covering.map(({ policy }) => JSON.stringify(policy.name)).join(' and ');
    const take = covering.length === 1 ? 'takes' : 'take';
    return `${JSON.stringify(rule.policy.name)} can never match: ${before} before it ${take} all its orders; move it up, or remove it`;
  });
}

/** The earlier rules that together match whatever a rule matches; undefined where something is left to it. */
function coveringRules(rule: Rule, earlier: readonly Rule[]): readonly Rule[] | undefined {
  // For a rule that takes any name, one that nobody gives decides: who takes that takes all.
  const channels: readonly Name[] = [...(rule.channels ?? [null])];
  const paymentMethods: readonly Name[] = [...(rule.paymentMethods ?? [null])];
  const kinds = channels.flatMap((channel) =>
    paymentMethods.map((paymentMethod) => ({ channel, paymentMethod })),
  );
  const alone = earlier.find((other) => kinds.every((kind) => matches(other, kind)));
  if (alone !== undefined) return [alone];
  const takers = kinds.map((kind) => earlier.find((other) => matches(other, kind)));
  const covering = takers.filter((taker) => taker !== undefined);
  return covering.length < kinds.length ? undefined : [...new Set(covering)];
}
