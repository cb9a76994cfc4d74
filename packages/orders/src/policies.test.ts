import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  defaultPolicies,
  explainPolicy,
  policyFor,
  shadowWarnings,
  type Policies,
  type Rule,
} from './policies.ts';

const setOf = (list: readonly string[] | null): ReadonlySet<string> | null => list && new Set(list);

/** A rule that differs from the defaults by its name only. */
const rule = (
  name: string,
  channels: readonly string[] | null,
  paymentMethods: readonly string[] | null,
): Rule => ({
  channels: setOf(channels),
  paymentMethods: setOf(paymentMethods),
  policy: { ...defaultPolicies.defaults, name },
});

const policies: Policies = {
  ...defaultPolicies,
  rules: [
    rule('counter', ['pos'], null),
    rule('transfer', null, ['bank', 'sepa']),
    rule('web cards', ['web', 'app'], ['card']),
    rule('web', ['web'], null),
  ],
};

test('without a file every order has 30 minutes and no more, and late money goes back', () => {
  expect(policyFor(defaultPolicies, { channel: 'default', paymentMethod: 'card' })).toEqual({
    name: 'defaults',
    windowMs: 1_800_000,
    graceMs: 0,
    reminders: [],
    extension: { maxCount: null, maxTotalMs: null },
    lateMoney: 'refund',
    processingMs: 1_209_600_000,
  });
});

test.each([
  ['pos', 'card', 'counter'],
  ['pos', 'bank', 'counter'],
  ['web', 'sepa', 'transfer'],
  ['phone', 'bank', 'transfer'],
  ['app', 'card', 'web cards'],
  ['web', 'card', 'web cards'],
  ['web', 'wallet', 'web'],
  ['app', 'wallet', 'defaults'],
  ['WEB', 'card', 'defaults'],
  ['', '', 'defaults'],
])('an order by channel %j and payment method %j has the policy %s', (channel, paymentMethod, name) => {
  expect(policyFor(policies, { channel, paymentMethod }).name).toBe(name);
});

test('the explanation says why each rule before did not match', () => {
  expect(explainPolicy(policies, { channel: 'web', paymentMethod: 'wallet' })).toEqual({
    policy: policies.rules[3]?.policy,
    passedOver: [
      { name: 'counter', reason: 'channel web is not pos' },
      { name: 'transfer', reason: 'payment method wallet is not bank or sepa' },
      { name: 'web cards', reason: 'payment method wallet is not card' },
    ],
  });
  const none = explainPolicy(policies, { channel: 'phone', paymentMethod: 'wallet' });
  expect(none.policy).toBe(policies.defaults);
  expect(none.passedOver[2]).toEqual({
    name: 'web cards',
    reason: 'channel phone is not web or app, payment method wallet is not card',
  });
});

const all = rule('all', null, null);
const web = rule('web', ['web'], null);
const cards = rule('cards', null, ['card']);

test.each<[string, readonly Rule[], readonly string[]]>([
  ['rules that leave something to those behind', [rule('a', ['web'], ['card']), web, cards, all], []],
  [
    'a rule for everybody before another',
    [all, web],
    ['"web" can never match: "all" before it takes all its orders'],
  ],
  [
    'a rule within an earlier one',
    [web, rule('x', ['web'], ['card', 'bank'])],
    ['"x" can never match: "web" before it takes all its orders'],
  ],
  ['a rule that is wider than an earlier one', [web, rule('x', ['web', 'app'], null)], []],
  [
    'a rule that two earlier ones cover together',
    [rule('a', ['web'], null), rule('b', ['app'], ['card', 'bank']), rule('x', ['web', 'app'], ['card'])],
    ['"x" can never match: "a" and "b" before it take all its orders'],
  ],
  [
    'the one that covers it alone',
    [rule('a', ['web'], ['card']), web, rule('x', ['web'], ['card', 'bank'])],
    ['"x" can never match: "web" before it takes all its orders'],
  ],
  [
    'a rule for any channel behind those for some',
    [web, rule('app', ['app'], null), rule('x', null, null)],
    [],
  ],
])('warns of %s where that can never match', (_, rules, warnings) => {
  expect(shadowWarnings(rules)).toEqual(warnings.map((warning) => `${warning}; move it up, or remove it`));
});

const names = ['a', 'b', 'c'];
const someNames = fc.option(fc.subarray(names, { minLength: 1 }));
const someRules = fc
  .array(fc.tuple(someNames, someNames), { maxLength: 6 })
  .map((list) => list.map(([channels, paymentMethods], n) => rule(`rule ${n}`, channels, paymentMethods)));

test('a rule is warned of exactly where no order can get it', () => {
  const kinds = [...names, 'other'].flatMap((channel) =>
    [...names, 'other'].map((paymentMethod) => ({ channel, paymentMethod })),
  );
  fc.assert(
    fc.property(someRules, (rules) => {
      const given = new Set(kinds.map((kind) => policyFor({ ...defaultPolicies, rules }, kind).name));
      const never = rules.map(({ policy }) => policy.name).filter((name) => !given.has(name));
      expect(shadowWarnings(rules).map((warning) => warning.slice(1, 'rule n'.length + 1))).toEqual(never);
    }),
    { numRuns: 500 },
  );
});

test('an explanation names the policy that an order gets, and all rules before it', () => {
  const name = fc.constantFrom(...names, 'other');
  fc.assert(
    fc.property(someRules, name, name, (rules, channel, paymentMethod) => {
      const kind = { channel, paymentMethod };
      const { policy, passedOver } = explainPolicy({ ...defaultPolicies, rules }, kind);
      expect(policy).toBe(policyFor({ ...defaultPolicies, rules }, kind));
      const tried = passedOver.map((each) => each.name).concat(policy.name);
      const inOrder = rules.map((each) => each.policy.name).concat('defaults');
      expect(tried).toEqual(inOrder.slice(0, tried.length));
      for (const { reason } of passedOver) expect(reason).not.toBe('');
    }),
  );
});
