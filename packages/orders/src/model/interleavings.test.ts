import fc from 'fast-check';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectConsistent } from '../testing.ts';
import { inModel, isPossible, unknownOrder, type Command } from './commands.ts';
import { inDatabase } from './database.ts';
import { explain } from './explain.ts';
import { emptyShop, type Answer, type Method, type Scope, type Shop } from './shop.ts';
import { begin, checkout, minuteMs, pay, thawStep } from './short.ts';
import { factsOf, openStage, type Stage } from './stage.ts';
import { gist, sentence } from './words.ts';

/** How many groups of commands are started at once against the database. More finds more. */
const groupCount = 500;
/** To repeat a run: the seed it printed. What the database makes of it is new each time. */
const givenSeed: number | undefined = undefined;

/** A command, the process that is asked, and how many turns of its loop later than the first. */
interface Asked {
  readonly command: Command;
  readonly process: number;
  readonly turns: number;
}

interface Group {
  readonly beginning: readonly Command[];
  readonly asked: readonly Asked[];
}

const anOrder = fc.constantFrom('1', '2', '3');
const anAttempt = fc.constantFrom('a1', 'a2');
const aCapture = fc.constantFrom('bank c1', 'bank c2', 'wallet c1', 'bank r1');
const noKey = fc.constant(null);
const aPay = (key: fc.Arbitrary<string | null>): fc.Arbitrary<Command> =>
  fc.record({
    do: fc.constant('pay'),
    order: fc.constantFrom('1', '1', '2', '3', unknownOrder),
    capture: aCapture,
    excess: fc.constantFrom(0, 0, 0, 0, 1),
    currency: fc.constant('EUR'),
    verified: fc.boolean(),
    key,
  });
/** The shop and the provider tell of the same capture, not always in the same way. */
const aRetold: fc.Arbitrary<Command> = fc
  .record({ excess: fc.constantFrom(0, 0, 1), verified: fc.boolean() })
  .map(({ excess, verified }) => pay('1', 'bank c1', excess, verified));
const aCheckout = (key: fc.Arbitrary<string | null>, tea: fc.Arbitrary<number>): fc.Arbitrary<Command> =>
  // The order is named when the group is put together: each name once.
  fc.record({
    do: fc.constant('checkout'),
    order: fc.constant(''),
    channel: fc.constant('web'),
    method: fc.constant('card'),
    items: fc.record({ tea }),
    windowMs: fc.constant(minuteMs),
    key,
  });
const kinds: readonly fc.Arbitrary<Command>[] = [
  aPay(noKey),
  aPay(noKey),
  aRetold,
  aRetold,
  aPay(fc.constantFrom('k1', 'k2')),
  aCheckout(noKey, fc.integer({ min: 1, max: 2 })),
  aCheckout(fc.constantFrom('k1', 'k2'), fc.constantFrom(1, 1, 2)),
  fc.record({
    do: fc.constant('begin attempt'),
    attempt: fc.constant(''),
    order: anOrder,
    provider: fc.constantFrom('bank', 'wallet'),
  }),
  fc.record({
    do: fc.constant('verdict'),
    attempt: anAttempt,
    said: fc.constantFrom('closed', 'closed', 'unknown'),
  }),
  fc.record({
    do: fc.constant('attempt pays'),
    attempt: anAttempt,
    capture: fc.constantFrom('c1', 'c2'),
    excess: fc.constantFrom(0, 0, 1),
  }),
  fc.record({
    do: fc.constant('resolve'),
    capture: fc.constant('bank r1'),
    resolution: fc.constantFrom('refund', 'accept', 'dismiss'),
  }),
  fc.record({
    do: fc.constant('refund verdict'),
    capture: fc.constant('bank r2'),
    said: fc.constantFrom('sent', 'confirmed', 'refused'),
    isFormer: fc.constant(false),
  }),
  fc.record({
    do: fc.constant('resolve'),
    capture: fc.constant('bank r2'),
    resolution: fc.constantFrom('refund', 'dismiss'),
  }),
  fc.record({ do: fc.constant('cancel'), order: anOrder, reason: fc.constantFrom('customer', 'merchant') }),
  fc.record({ do: fc.constant('extend'), order: anOrder, byMs: fc.constantFrom(1, 5 * minuteMs) }),
  fc.record({ do: fc.constant('expire'), orders: fc.shuffledSubarray(['1', '2', '3'], { minLength: 1 }) }),
  fc.record({ do: fc.constant('expire'), orders: fc.tuple(anOrder) }),
  fc.record({ do: fc.constant('sweep'), limit: fc.constantFrom(1, 10) }),
  fc.record({ do: fc.constant('remind'), orders: fc.shuffledSubarray(['1', '2', '3'], { minLength: 1 }) }),
  fc.record({
    do: fc.constant('adjust stock'),
    sku: fc.constant('tea'),
    by: fc.integer({ min: -2, max: 2 }),
  }),
  fc.record({
    do: fc.constant('set stock'),
    sku: fc.constant('tea'),
    onHand: fc.integer({ min: 0, max: 6 }),
  }),
  fc.record({
    do: fc.constant('freeze'),
    freeze: fc.constant(''),
    scope: fc.constantFrom<Scope>({}, { provider: 'bank' }, { paymentMethod: 'transfer' }),
  }),
  fc.constant({ do: 'thaw', freeze: 'A' }),
  fc.constant({ do: 'thaw step', limit: 100 }),
];

/**
 * Three orders, of which some are due, two with a page open, and a freeze that is over, goes on, or is thawing. Another
 * order was paid thrice: one of the captures waits for a person, one goes back.
 */
const beginnings: fc.Arbitrary<readonly Command[]> = fc
  .record({
    onHand: fc.integer({ min: 5, max: 7 }),
    windows: fc.array(fc.constantFrom(minuteMs, 2 * minuteMs), { minLength: 3, maxLength: 3 }),
    methods: fc.array(fc.constantFrom<Method>('card', 'card', 'transfer'), { minLength: 3, maxLength: 3 }),
    attempts: fc.subarray([begin('a1', '1', 'bank'), begin('a2', '2', 'bank')]),
    money: fc.subarray([pay('r', 'bank r0'), pay('r', 'bank r1'), pay('r', 'bank r2', 0, true)]),
    scope: fc.constantFrom<Scope>({}, {}, { provider: 'bank' }),
    passMs: fc.constantFrom(0, minuteMs, minuteMs, 3 * minuteMs),
    frozen: fc.constantFrom<Command[]>(
      [{ do: 'thaw', freeze: 'A' }, thawStep, thawStep],
      [{ do: 'thaw', freeze: 'A' }, thawStep, thawStep],
      [],
      [{ do: 'thaw', freeze: 'A' }],
    ),
  })
  .map(({ onHand, windows, methods, attempts, money, scope, passMs, frozen }) => {
    const stocked: Command[] = [{ do: 'set stock', sku: 'tea', onHand }];
    const checkouts = windows.map((windowMs, n) => checkout(String(n + 1), windowMs, methods[n]));
    const begun: Command[] = [
      { do: 'pass', ms: 1000 },
      { do: 'freeze', freeze: 'A', scope },
      { do: 'pass', ms: 5000 },
    ];
    const placed = stocked.concat(checkouts, checkout('r', minuteMs), money, attempts);
    return placed.concat(begun, frozen, [{ do: 'pass', ms: passMs + 5000 }]);
  });

const groups: fc.Arbitrary<Group> = fc.record({
  beginning: beginnings,
  asked: fc
    .array(
      fc.record({
        command: fc.oneof(...kinds),
        process: fc.nat({ max: 2 }),
        turns: fc.oneof(fc.constant(0), fc.nat({ max: 60 })),
      }),
      { minLength: 2, maxLength: 6, size: 'max' },
    )
    .map((asked) => asked.map((each, n) => ({ ...each, command: named(each.command, n) }))),
});

function named(command: Command, n: number): Command {
  if (command.do === 'checkout') return { ...command, order: String(4 + n) };
  if (command.do === 'freeze') return { ...command, freeze: `B${n}` };
  if (command.do === 'begin attempt') return { ...command, attempt: `b${n}` };
  return command;
}

describe('the database, asked at once', () => {
  let stage: Stage;
  let processes: readonly Stage[];
  beforeAll(async () => {
    stage = await openStage();
    processes = Array.from({ length: 3 }, () => stage.another());
  });
  afterAll(() => stage.close());

  async function askAtOnce(shop: Shop, asked: readonly Asked[]): Promise<Answer[]> {
    const tell = await Promise.all(
      asked.map(async ({ command, process, turns }) => {
        for (let turn = 0; turn < turns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
        return inDatabase(processes[process] ?? stage, shop, command).catch((error: unknown) => () => ({
          outcome: `threw ${String(error)}`,
        }));
      }),
    );
    return tell.map((answer) => answer());
  }

  async function play({ beginning, asked: wanted }: Group): Promise<void> {
    await stage.clear();
    let shop = emptyShop;
    for (const command of beginning) {
      const answer = (await inDatabase(stage, shop, command))();
      // A thaw waits for whatever other tests have open on this server: then the freeze is still thawing.
      if (answer.outcome !== 'waiting') [shop] = inModel(shop, command, answer);
    }
    const begun = shop;
    const asked = wanted.filter(({ command }) => isPossible(begun, command));
    const answers = await askAtOnce(shop, asked);
    const facts = await stage.facts();
    const answered = asked.map(({ command }, n) => [command, answers[n] ?? { outcome: 'none' }] as const);
    const end = explain(shop, answered, facts);
    if (end === undefined) {
      const story = [
        'no order of these explains their answers and the rows:',
        ...beginning.map((command) => `  first, ${sentence(command)}`),
        ...answered.map(
          ([command, answer], n) =>
            `  at once, in process ${asked[n]?.process}, ${sentence(command)} → ${gist(answer)}`,
        ),
        `the rows: ${JSON.stringify(facts, undefined, 2)}`,
      ];
      throw new Error(story.join('\n'));
    }
    await expectConsistent(stage.database);
    if (!isDeepStrictEqual(factsOf(shop), factsOf(end))) changes += 1;
    for (const { outcome } of answers) met.set(outcome, (met.get(outcome) ?? 0) + 1);
  }

  const met = new Map<string, number>();
  let changes = 0;

  test(
    'groups of commands are answered as in some order, one after the other',
    { timeout: 600_000 },
    async () => {
      const seed = givenSeed ?? Math.floor(Math.random() * 2 ** 31);
      for (const [n, group] of fc.sample(groups, { numRuns: groupCount, seed }).entries()) {
        await play(group).catch((cause: unknown) => {
          throw new Error(`group ${n} of seed ${seed}: ${String(cause)}`, { cause });
        });
      }
      const outcomes = [...met].map(([outcome, times]) => `${outcome} ${times}`).toSorted();
      console.log(`seed ${seed}, ${groupCount} groups, ${changes} changed something: ${outcomes.join(', ')}`);
      expect(changes).toBeGreaterThan(groupCount / 2);
    },
  );
});
