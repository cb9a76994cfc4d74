import fc from 'fast-check';
import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { defaultPolicies, policyFor, type Policies } from './policies.ts';
import { parsePolicies } from './policies-file.ts';

const minuteMs = 60_000;
const dayMs = 86_400_000;

function problemsOf(file: unknown): readonly string[] {
  const reading = parsePolicies(file);
  return 'problems' in reading ? reading.problems : [];
}

/** The policies of a file that has no fault. */
function read(file: unknown): Policies {
  const reading = parsePolicies(file);
  if ('problems' in reading) throw new Error(reading.problems.join('\n'));
  return reading.policies;
}

/** The policies of a file with this one rule. */
const readRule = (rule: object, defaults: object = {}) => read({ defaults, rules: [{ name: 'x', ...rule }] });

const ruleProblems = (rule: object): readonly string[] => problemsOf({ rules: [{ name: 'x', ...rule }] });

test('an empty file holds the defaults', () => {
  expect(read({})).toEqual(defaultPolicies);
  expect(read({ defaults: {}, rules: [] })).toEqual(defaultPolicies);
});

test('a rule says everything that a policy has', () => {
  const { rules } = readRule({
    channel: 'web',
    paymentMethod: ['bank', 'sepa'],
    window: '7d',
    grace: '12h',
    reminders: ['1h', '3d', 60_000],
    extension: { maxCount: 2, maxTotal: '30d' },
    lateMoney: 'reinstate',
    processing: '90s',
  });
  expect(rules).toEqual([
    {
      channels: new Set(['web']),
      paymentMethods: new Set(['bank', 'sepa']),
      policy: {
        name: 'x',
        windowMs: 7 * dayMs,
        graceMs: dayMs / 2,
        reminders: [3 * dayMs, 60 * minuteMs, minuteMs],
        extension: { maxCount: 2, maxTotalMs: 30 * dayMs },
        lateMoney: 'reinstate',
        processingMs: 90_000,
      },
    },
  ]);
});

test('what a rule leaves out it has from the defaults of the file, and they from ours', () => {
  const defaults = { window: '1h', reminders: ['10m'], extension: { maxCount: 2, maxTotal: '1d' } };
  const { rules, defaults: rest } = readRule({ grace: '1m', extension: { maxCount: 5 } }, defaults);
  expect(rest).toEqual({
    ...defaultPolicies.defaults,
    windowMs: 60 * minuteMs,
    reminders: [10 * minuteMs],
    extension: { maxCount: 2, maxTotalMs: dayMs },
  });
  // The extension is taken whole.
  const extension = { maxCount: 5, maxTotalMs: null };
  expect(rules[0]?.policy).toEqual({ ...rest, name: 'x', graceMs: minuteMs, extension });
  expect(rules[0]?.channels).toBeNull();
});

test('a window may be never, in a rule and in the defaults, and a rule may have one all the same', () => {
  expect(readRule({ window: 'never', reminders: ['1d'], grace: '1d' }).rules[0]?.policy).toMatchObject({
    windowMs: null,
    reminders: [dayMs],
  });
  const file = readRule({ window: '1h' }, { window: 'never', reminders: ['10m'] });
  expect(file.defaults.windowMs).toBeNull();
  expect(file.rules[0]?.policy.windowMs).toBe(60 * minuteMs);
});

const rulesOf = (count: number) =>
  Array.from({ length: count }, (_, n) => ({ name: `rule ${n}`, channel: `${n}` }));

describe('bounds:', () => {
  test.each<[string, (value: unknown) => object, readonly unknown[], readonly unknown[]]>([
    [
      'window',
      (window) => ({ window }),
      ['1s', 1000, '90d', 'never'],
      ['999ms', 999, '91d', 0, 'Never', null, -1000],
    ],
    ['grace', (grace) => ({ grace }), [0, '0s', '7d'], ['8d', 604_800_001, -1, 0.5, '', true]],
    [
      'reminders',
      (reminders) => ({ window: '90d', reminders }),
      [[], ['1s'], ['89d', '1d'], Array.from({ length: 10 }, (_, n) => `${n + 1}m`)],
      [
        ['90d'],
        [0],
        ['1d', '24h'],
        Array.from({ length: 11 }, (_, n) => `${n + 1}m`),
        '1h',
        [['1h']],
        [null],
      ],
    ],
    [
      'extension.maxCount',
      (maxCount) => ({ extension: { maxCount } }),
      [0, 1, 1000],
      [-1, 1001, 1.5, '2', null, Number.NaN],
    ],
    ['extension.maxTotal', (maxTotal) => ({ extension: { maxTotal } }), ['1s', '90d'], [0, '91d', 'never']],
    ['extension', (extension) => ({ extension }), [{}], [null, [], 3, { count: 1 }]],
    ['lateMoney', (lateMoney) => ({ lateMoney }), ['refund', 'reinstate', 'manual'], ['Refund', '', null, 1]],
    ['processing', (processing) => ({ processing }), ['1s', '14d', '90d'], ['91d', 0, 'never']],
    [
      'channel',
      (channel) => ({ channel }),
      ['x', ['x', 'y'], 'x'.repeat(64)],
      ['', [], ['x', 'x'], ['x', 1], 'x'.repeat(65), null],
    ],
    [
      'paymentMethod',
      (paymentMethod) => ({ paymentMethod }),
      ['card'],
      [[''], {}, Array.from({ length: 101 }, String)],
    ],
    [
      'name',
      (name) => ({ name }),
      ['x'.repeat(64), 'Überweisung 🏦'],
      ['', ' x', 'x\n', 'x'.repeat(65), 1, null, 'defaults'],
    ],
  ])('%s', (field, rule, good, bad) => {
    for (const value of good)
      expect({ value, problems: ruleProblems(rule(value)) }).toEqual({ value, problems: [] });
    for (const value of bad) {
      const problems = ruleProblems(rule(value));
      expect({ value, count: problems.length }).toEqual({ value, count: 1 });
      expect(problems[0]).toContain(`rules[0].${field}`);
    }
  });

  test('rules', () => {
    expect(problemsOf({ rules: rulesOf(100) })).toEqual([]);
    expect(problemsOf({ rules: rulesOf(101) })).toEqual(['rules: must have 100 entries at most']);
    for (const bad of [null, {}, 'x', [1], [null]]) expect(problemsOf({ rules: bad })).toHaveLength(1);
    for (const bad of [null, [], 'x', 1, true]) expect(problemsOf(bad)).toHaveLength(1);
  });
});

test.each<[string, unknown, readonly string[]]>([
  ['something else than an object', [], ['the file: must be an object of defaults, rules']],
  [
    'an unknown field at the top',
    { policies: [], default: {} },
    [
      'policies: is not a known field; known are defaults, rules',
      'default: is not a known field; known are defaults, rules',
    ],
  ],
  [
    'an unknown field in a rule',
    { rules: [{ name: 'cards', paymentMethods: 'card' }] },
    [
      'rules[0].paymentMethods ("cards"): is not a known field; known are name, channel, paymentMethod, window, grace, reminders, extension, lateMoney, processing',
    ],
  ],
  [
    'a rule without a name',
    { rules: [{ channel: 'web' }] },
    ['rules[0].name: is required: what the rule is called in answers and errors'],
  ],
  [
    'two rules of one name',
    { rules: [{ name: 'a' }, { name: 'b' }, { name: 'a' }] },
    ['rules[2].name ("a"): is the name of rules[0], too; give each its own'],
  ],
  [
    'a duration in other words',
    { defaults: { window: '30 minutes' } },
    [
      'defaults.window: must be a number with ms, s, m, h or d, "30m" for example, or whole milliseconds, not "30 minutes"',
    ],
  ],
  [
    'a number that was meant as minutes',
    { defaults: { window: 30 } },
    ['defaults.window: must be from 1s to 90d, not 30 ms'],
  ],
  ['too much', { defaults: { grace: '8d' } }, ['defaults.grace: must be from 0s to 7d, not "8d"']],
  [
    'a reminder before the window begins',
    { rules: [{ name: 'a', window: '1h', reminders: ['2h', '1h', '59m'] }] },
    ['rules[0].reminders ("a"): 2h, 1h is not within the window of 1h; remind later, or give more time'],
  ],
  [
    'a reminder in a rule that has the window of the defaults',
    { defaults: { window: '10m' }, rules: [{ name: 'a', reminders: ['10m'] }] },
    ['rules[0].reminders ("a"): 10m is not within the window of 10m; remind later, or give more time'],
  ],
  [
    'a window that is too short for the reminders of the defaults',
    { defaults: { window: '1d', reminders: ['1h'] }, rules: [{ name: 'a', window: '1h' }] },
    [
      'rules[0].window ("a"): 1h is not within the window of 1h; the reminder is that of the defaults: give the rule its own reminders, [] for none',
    ],
  ],
  [
    'a reminder of the defaults once, not in each rule besides',
    { defaults: { reminders: ['30m'] }, rules: [{ name: 'a' }, { name: 'b', grace: '1m' }] },
    ['defaults.reminders: 30m is not within the window of 30m; remind later, or give more time'],
  ],
  [
    'a window that cannot be read, without guessing about its reminders',
    { rules: [{ name: 'a', window: 'soon', reminders: ['2h'] }] },
    [expect.stringMatching(/^rules\[0\]\.window \("a"\): must be a number/)],
  ],
])('says where %s is, what is wrong, and how to mend it', (_, file, problems) => {
  expect(problemsOf(file)).toEqual(problems);
});

test('every problem is named at once', () => {
  const problems = problemsOf({
    version: 1,
    defaults: { window: '1y', grace: '8d', lateMoney: 'keep' },
    rules: [
      { name: 'a', channel: [], reminders: ['1h'], window: '30m' },
      { name: 'a', extension: { maxCount: -1, often: true }, processing: null },
      'b',
    ],
  });
  const places = problems.map((problem) => problem.slice(0, problem.indexOf(': ')));
  expect(places.toSorted()).toEqual([
    'defaults.grace',
    'defaults.lateMoney',
    'defaults.window',
    'rules[0].channel ("a")',
    'rules[0].reminders ("a")',
    'rules[1].extension.maxCount ("a")',
    'rules[1].extension.often ("a")',
    'rules[1].name ("a")',
    'rules[1].processing ("a")',
    'rules[2]',
    'version',
  ]);
});

test('a field that every object has in JavaScript is unknown like any other', () => {
  for (const field of ['__proto__', 'constructor', 'toString'])
    expect(problemsOf(JSON.parse(`{ "${field}": {} }`))).toEqual([
      expect.stringContaining('is not a known field'),
    ]);
});

test('a rule that can never match is a warning, no problem', () => {
  const file = { rules: [{ name: 'all' }, { name: 'web', channel: 'web' }] };
  expect(parsePolicies(file)).toMatchObject({
    warnings: ['"web" can never match: "all" before it takes all its orders; move it up, or remove it'],
  });
});

test('whatever a file says, it is read or its problems are named', () => {
  const field = fc.constantFrom(
    'defaults',
    'rules',
    'name',
    'channel',
    'paymentMethod',
    'window',
    'grace',
    'reminders',
    'extension',
    'maxCount',
    'maxTotal',
    'lateMoney',
    'processing',
    'other',
  );
  const leaf = fc.oneof(
    fc.constantFrom('never', '30m', '1h', 'refund', 'web', '', null, true),
    fc.integer(),
    fc.double(),
    fc.string({ maxLength: 3 }),
  );
  const { file } = fc.letrec<{ file: unknown }>((tie) => ({
    file: fc.oneof(
      { maxDepth: 5, depthSize: 'small' },
      leaf,
      fc.array(tie('file'), { maxLength: 4 }),
      fc.dictionary(field, tie('file'), { maxKeys: 6 }),
      fc.record({ rules: fc.array(fc.dictionary(field, tie('file'), { maxKeys: 6 }), { maxLength: 4 }) }),
    ),
  }));
  fc.assert(
    fc.property(file, (value) => {
      const reading = parsePolicies(value);
      if ('problems' in reading) expect(reading.problems.length).toBeGreaterThan(0);
      else
        for (const { policy } of reading.policies.rules)
          expect(policy.reminders.length).toBeLessThanOrEqual(10);
    }),
    { numRuns: 1000 },
  );
});

describe('deploy/policies.example.json', async () => {
  const root = new URL('../../../', import.meta.url);
  const example = await readFile(new URL('deploy/policies.example.json', root), 'utf8');

  test('is read without a warning, and its rules decide as docs/policies.md says', () => {
    const reading = parsePolicies(JSON.parse(example));
    expect(reading).toMatchObject({ warnings: [] });
    const policies = read(JSON.parse(example));
    const nameFor = (channel: string, paymentMethod: string) =>
      policyFor(policies, { channel, paymentMethod }).name;
    expect(nameFor('web', 'cash_on_delivery')).toBe('cash on delivery');
    expect(nameFor('pos', 'bank_transfer')).toBe('bank transfer');
    expect(nameFor('pos', 'card')).toBe('box office');
    expect(nameFor('app', 'wallet')).toBe('web');
    expect(nameFor('phone', 'card')).toBe('defaults');
  });

  test('stands in docs/policies.md as it is', async () => {
    expect(await readFile(new URL('docs/policies.md', root), 'utf8')).toContain(
      '```json\n' + example + '```',
    );
  });
});
