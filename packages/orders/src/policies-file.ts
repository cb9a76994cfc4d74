import { z } from 'zod';
import { formatDuration, parseDuration } from './duration.ts';
import {
  defaultPolicies,
  defaultsName,
  shadowWarnings,
  type Policies,
  type Policy,
  type Rule,
} from './policies.ts';

const secondMs = 1000;
const dayMs = 86_400_000;
const mostRules = 100;
const mostNames = 100;
const mostReminders = 10;
const mostExtensions = 1000;
const nameForm = 'must be a text of 1 to 64 characters in one line';
const extensionCountForm = `must be a whole number from 0 to ${mostExtensions}`;

/** A text from the file, fit to be shown in a line. */
function show(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > 40 ? `${text.slice(0, 39)}…` : text;
}

/** An object that has no other fields than these. */
const fields = <Shape extends z.core.$ZodLooseShape>(shape: Shape) =>
  z.strictObject(shape, {
    error: ({ code }) =>
      code === 'unrecognized_keys'
        ? `is not a known field; known are ${Object.keys(shape).join(', ')}`
        : `must be an object of ${Object.keys(shape).join(', ')}`,
  });

/** Says in the context what is wrong with a value. */
function refuse(context: z.core.$RefinementCtx, message: string): never {
  context.addIssue({ code: 'custom', message });
  return z.NEVER;
}

function readDuration(
  value: unknown,
  [leastMs, mostMs]: readonly [number, number],
  context: z.core.$RefinementCtx,
): number {
  const ms = typeof value === 'string' ? parseDuration(value) : value;
  if (typeof ms !== 'number' || !Number.isInteger(ms))
    return refuse(
      context,
      `must be a number with ms, s, m, h or d, "30m" for example, or whole milliseconds, not ${show(value)}`,
    );
  if (ms < leastMs || ms > mostMs) {
    const bounds = `${formatDuration(leastMs)} to ${formatDuration(mostMs)}`;
    return refuse(
      context,
      `must be from ${bounds}, not ${typeof value === 'number' ? `${value} ms` : show(value)}`,
    );
  }
  return ms;
}

const duration = (leastMs: number, mostMs: number) =>
  z.unknown().transform((value, context) => readDuration(value, [leastMs, mostMs], context));

const windowBounds = [secondMs, 90 * dayMs] as const;

/** Names of channels or payment methods: one, or a list. */
const nameList = z.unknown().transform((value, context): ReadonlySet<string> => {
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  const texts = list.filter((name) => typeof name === 'string');
  if (texts.length < list.length || texts.some(({ length }) => length < 1 || length > 64))
    return refuse(context, 'must be a text of 1 to 64 characters, or a list of them');
  if (list.length === 0) return refuse(context, 'must name one at least; leave it out where any will do');
  if (list.length > mostNames) return refuse(context, `must name ${mostNames} at most`);
  const twice = texts.find((name, n) => texts.indexOf(name) < n);
  return twice === undefined ? new Set(texts) : refuse(context, `must name ${show(twice)} only once`);
});

const reminderList = z
  .array(duration(...windowBounds), 'must be a list of durations, ["1h", "10m"] for example')
  .max(mostReminders, `must have ${mostReminders} entries at most`)
  .refine((list) => new Set(list).size === list.length, 'must name each time only once')
  .transform((list) => list.toSorted((a, b) => b - a));

const windowLength = z
  .unknown()
  .transform((value, context) => (value === 'never' ? null : readDuration(value, windowBounds, context)));

const ruleName = z
  .string('is required: what the rule is called in answers and errors')
  .refine((name) => /^\P{Cc}{1,64}$/u.test(name) && name.trim() === name, nameForm)
  .refine((name) => name !== defaultsName, 'is what holds where no rule matches; call the rule otherwise');

/** What a rule and the defaults say alike. */
const terms = {
  window: windowLength.optional(),
  grace: duration(0, 7 * dayMs).optional(),
  reminders: reminderList.optional(),
  extension: fields({
    maxCount: z
      .number(extensionCountForm)
      .refine((count) => Number.isInteger(count) && count >= 0 && count <= mostExtensions, extensionCountForm)
      .optional(),
    maxTotal: duration(secondMs, 90 * dayMs).optional(),
  }).optional(),
  lateMoney: z
    .enum(['refund', 'reinstate', 'manual'], 'must be "refund", "reinstate" or "manual"')
    .optional(),
  processing: duration(secondMs, 90 * dayMs).optional(),
};
const termsSchema = fields(terms);
type Terms = z.output<typeof termsSchema>;

const fileSchema = fields({
  defaults: termsSchema.optional(),
  rules: z
    .array(
      fields({ name: ruleName, channel: nameList.optional(), paymentMethod: nameList.optional(), ...terms }),
      'must be a list of rules',
    )
    .max(mostRules, `must have ${mostRules} entries at most`)
    .optional(),
});

/** What can be compared in a file that may have other faults: what cannot be read says nothing. */
const outlinedTerms = {
  // NaN is neither shorter nor longer than anything.
  window: terms.window.catch(Number.NaN),
  reminders: terms.reminders.catch([]),
};
const outlineSchema = z
  .object({
    defaults: z.object(outlinedTerms).catch({}),
    rules: z
      .array(z.object({ name: z.string().optional().catch(undefined), ...outlinedTerms }).catch({}))
      .catch([]),
  })
  .catch({ defaults: {}, rules: [] });
type Outline = z.output<typeof outlineSchema>;

/** What became of reading policies: `warnings` say what is allowed and hardly meant, `problems` why there are none. */
export type PoliciesReading =
  | { readonly policies: Policies; readonly warnings: readonly string[] }
  | { readonly problems: readonly string[] };

/**
 * Reads policies as docs/policies.md describes them. They are written in JSON: YAML would need a library that nothing else
 * here needs, and reads `no`, `1:30` and `0777` as things that nobody meant.
 *
 * @param file what JSON.parse made of the file
 * @returns the policies, or every problem at once: where, what is wrong, and how to mend it
 */
export function parsePolicies(file: unknown): PoliciesReading {
  const outline = outlineSchema.parse(file);
  const parsed = fileSchema.safeParse(file);
  const problems = [
    ...(parsed.error?.issues ?? []).flatMap((issue) => formProblems(issue, outline)),
    ...nameProblems(outline),
    ...reminderProblems(outline),
  ];
  if (problems.length > 0 || !parsed.success) return { problems };

  const { defaults: given = {}, rules: written = [] } = parsed.data;
  const defaults = toPolicy(defaultsName, given, defaultPolicies.defaults);
  const rules = written.map(({ name, channel = null, paymentMethod = null, ...own }): Rule => ({
    channels: channel,
    paymentMethods: paymentMethod,
    policy: toPolicy(name, own, defaults),
  }));
  return { policies: { rules, defaults }, warnings: shadowWarnings(rules) };
}

function toPolicy(name: string, given: Terms, base: Policy): Policy {
  const { extension } = given;
  return {
    name,
    windowMs: given.window === undefined ? base.windowMs : given.window,
    graceMs: given.grace ?? base.graceMs,
    reminders: given.reminders ?? base.reminders,
    // Taken whole: half of one and half of the other is nobody's wish.
    extension:
      extension === undefined
        ? base.extension
        : { maxCount: extension.maxCount ?? null, maxTotalMs: extension.maxTotal ?? null },
    lateMoney: given.lateMoney ?? base.lateMoney,
    processingMs: given.processing ?? base.processingMs,
  };
}

/** Zod reports all unknown fields of an object as one issue of that object; here each is named. */
function formProblems(issue: z.core.$ZodIssue, outline: Outline): string[] {
  const paths =
    issue.code === 'unrecognized_keys' ? issue.keys.map((key) => [...issue.path, key]) : [issue.path];
  return paths.map((path) => `${placeOf(path, outline)}: ${issue.message}`);
}

/** Where in the file, with the name of the rule where it has one. */
function placeOf(path: readonly PropertyKey[], outline: Outline): string {
  if (path.length === 0) return 'the file';
  const [list, index] = path;
  const rule = list === 'rules' && typeof index === 'number' ? outline.rules[index] : undefined;
  return z.core.toDotPath(path) + (rule?.name === undefined ? '' : ` (${show(rule.name)})`);
}

function nameProblems(outline: Outline): string[] {
  const given = outline.rules.map(({ name }) => name);
  return given.flatMap((name, n) => {
    const first = given.indexOf(name);
    if (name === undefined || first === n) return [];
    return `${placeOf(['rules', n, 'name'], outline)}: is the name of rules[${first}], too; give each its own`;
  });
}

/** A reminder that is due before the order is placed would never be sent. */
function reminderProblems(outline: Outline): string[] {
  const { window: windowMs = defaultPolicies.defaults.windowMs, reminders = [] } = outline.defaults;
  const later = 'remind later, or give more time';
  const inRules = outline.rules.flatMap((own, n) => {
    const ownMs = own.window === undefined ? windowMs : own.window;
    if (own.reminders !== undefined)
      return tooEarly(placeOf(['rules', n, 'reminders'], outline), own.reminders, ownMs, later);
    if (own.window === undefined) return [];
    const remedy = 'the reminder is that of the defaults: give the rule its own reminders, [] for none';
    return tooEarly(placeOf(['rules', n, 'window'], outline), reminders, ownMs, remedy);
  });
  return [...tooEarly('defaults.reminders', reminders, windowMs, later), ...inRules];
}

function tooEarly(
  place: string,
  reminders: readonly number[],
  windowMs: number | null,
  remedy: string,
): string[] {
  if (windowMs === null) return [];
  const early = reminders.filter((ms) => ms >= windowMs).map(formatDuration);
  if (early.length === 0) return [];
  return [`${place}: ${early.join(', ')} is not within the window of ${formatDuration(windowMs)}; ${remedy}`];
}
