import fc from 'fast-check';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { expectConsistent } from '../testing.ts';
import { gist, inDatabase, inModel, sentence, type Command } from './commands.ts';
import { breaches } from './invariants.ts';
import { emptyShop, type Answer, type Shop } from './shop.ts';
import { explain } from './explain.ts';
import { factsOf, openStage, type Stage } from './stage.ts';

/** How many groups of commands are started at once against the database. More finds more. */
const groupCount = 500;
/** To repeat a run: the seed it printed. What the database makes of it is new each time. */
const givenSeed: number | undefined = undefined;

const minuteMs = 60_000;

/** Somebody who does several deeds one after the other. Between the steps of a deed others may come. */
interface Actor {
  readonly who: string;
  readonly deeds: readonly (readonly Command[])[];
}

const pay = (order: string, capture: string, excess = 0): Command => ({
  do: 'pay',
  order,
  capture,
  excess,
  currency: 'EUR',
  key: null,
});
const expire: Command = { do: 'expire', orders: ['1'] };
const sweep: Command = { do: 'sweep', limit: 10 };
const thawStep: Command = { do: 'thaw step', limit: 10 };

const frozenFor = (freeze: string, ms: number): readonly Command[] => [
  { do: 'freeze', freeze },
  { do: 'pass', ms },
  { do: 'thaw', freeze },
  // The first moves the orders, the second finds none left.
  thawStep,
  thawStep,
];

const cancelled: Command = { do: 'cancel', order: '1', reason: 'customer' };

const actors: readonly Actor[] = [
  { who: 'a customer who pays, told twice', deeds: [[pay('1', 'c1'), pay('1', 'c1')]] },
  { who: 'a second capture', deeds: [[pay('1', 'c2')]] },
  { who: 'a wrong amount, then the right one', deeds: [[pay('1', 'c3', -1)], [pay('1', 'c4')]] },
  { who: 'a job that fires twice', deeds: [[expire, expire]] },
  { who: 'a sweeper', deeds: [[sweep, sweep]] },
  { who: 'a customer who cancels twice', deeds: [[cancelled, cancelled]] },
  { who: 'a merchant who cancels', deeds: [[{ do: 'cancel', order: '1', reason: 'merchant' }]] },
  {
    // By more than ever passes here: in a freeze, an extension that ends before now is refused, although the order
    // has time left, and then the freeze is not as if it had happened at once.
    who: 'a support that extends twice',
    deeds: [
      [{ do: 'extend', order: '1', byMs: 20 * minuteMs }],
      [{ do: 'extend', order: '1', byMs: 30 * minuteMs }],
    ],
  },
  { who: 'a freeze', deeds: [frozenFor('A', 3 * minuteMs)] },
  { who: 'another freeze', deeds: [frozenFor('B', 10 * minuteMs)] },
  {
    who: 'another buyer of the last piece',
    deeds: [[{ do: 'checkout', order: '2', items: { tea: 1 }, windowMs: minuteMs, key: null }]],
  },
  {
    who: 'a merchant who takes a piece away and puts it back',
    deeds: [[{ do: 'adjust stock', sku: 'tea', by: -1 }], [{ do: 'adjust stock', sku: 'tea', by: 1 }]],
  },
];

const onePieceHeld: readonly Command[] = [
  { do: 'set stock', sku: 'tea', onHand: 1 },
  { do: 'checkout', order: '1', items: { tea: 1 }, windowMs: minuteMs, key: null },
];
/** One order holds the last piece: just placed, or at its deadline. */
const starts: readonly (readonly Command[])[] = [
  onePieceHeld,
  [...onePieceHeld, { do: 'pass', ms: minuteMs }],
];

const after = (shop: Shop, commands: readonly Command[]): Shop =>
  commands.reduce((before, command) => inModel(before, command)[0], shop);

/** How it ends once the sweeper has been there: what became of orders and stock, and of how much money. */
function endOf(shop: Shop): string {
  const { orders, stock, payments } = after(shop, [sweep]);
  const ends = Object.entries(orders).map(([name, { status, cancelReason, deadlineAt }]) =>
    [name, status, cancelReason, status === 'pending_payment' && deadlineAt].join(' '),
  );
  const money = Object.values(payments).map(({ outcome }) => outcome);
  return JSON.stringify([ends.toSorted(), stock, money.toSorted()]);
}

const retell = (story: readonly Command[]): string =>
  story.map((command) => `  ${sentence(command)}`).join('\n');

/** Every choice of so many actors. */
function groupsOf(size: number, among: readonly Actor[] = actors): Actor[][] {
  if (size === 0) return [[]];
  return among.flatMap((actor, n) =>
    groupsOf(size - 1, among.slice(n + 1)).map((others) => [actor].concat(others)),
  );
}

/**
 * Walks every interleaving, asserts what must be true at each step, and hands each end over.
 *
 * @param left for each actor, what it has still to do; the commands of one entry are done at once
 * @returns how many interleavings there are
 */
function walk(
  shop: Shop,
  left: readonly (readonly (readonly Command[])[])[],
  story: readonly Command[],
  onEnd: (end: Shop, story: readonly Command[]) => void,
): number {
  if (left.every((turns) => turns.length === 0)) {
    onEnd(shop, story);
    return 1;
  }
  let count = 0;
  for (const [n, [turn, ...rest]] of left.entries()) {
    if (turn === undefined) continue;
    const path = [...story, ...turn];
    const next = after(shop, turn);
    const wrong = breaches(shop, next);
    if (wrong.length > 0) throw new Error(`${wrong.join('; ')} after\n${retell(path)}`);
    count += walk(next, left.with(n, rest), path, onEnd);
  }
  return count;
}

describe('the model, walked', () => {
  test.each([2, 3])('whatever %i actors do, it ends as if each deed had been done at once', (size) => {
    let count = 0;
    const ends = new Set<string>();
    for (const commands of starts) {
      const start = after(emptyShop, commands);
      for (const group of groupsOf(size)) {
        const explained = new Set<string>();
        const whole = group.map(({ deeds }) => deeds);
        walk(start, whole, [], (end) => explained.add(endOf(end)));
        const steps = whole.map((deeds) => deeds.flat().map((step) => [step]));
        count += walk(start, steps, [], (end, story) => {
          const how = endOf(end);
          ends.add(how);
          if (explained.has(how)) return;
          const who = group.map((actor) => actor.who).join(', ');
          throw new Error(`no order of the deeds of ${who} explains ${how} after\n${retell(story)}`);
        });
      }
    }
    console.log(`${count} interleavings of ${size} actors, ${ends.size} different ends`);
    expect(ends.size).toBeGreaterThan(10);
  });
});

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
const noKey = fc.constant(null);
const aPay = (key: fc.Arbitrary<string | null>): fc.Arbitrary<Command> =>
  fc.record({
    do: fc.constant('pay'),
    order: fc.constantFrom('1', '1', '2', '3'),
    capture: fc.constantFrom('c1', 'c2', 'c3'),
    excess: fc.constantFrom(0, 0, 0, 0, 1),
    currency: fc.constant('EUR'),
    key,
  });
const aCheckout = (key: fc.Arbitrary<string | null>, tea: fc.Arbitrary<number>): fc.Arbitrary<Command> =>
  // The order is named when the group is put together: each name once.
  fc.record({
    do: fc.constant('checkout'),
    order: fc.constant(''),
    items: fc.record({ tea }),
    windowMs: fc.constant(minuteMs),
    key,
  });
const kinds: readonly fc.Arbitrary<Command>[] = [
  aPay(noKey),
  aPay(noKey),
  aPay(fc.constantFrom('k1', 'k2')),
  aCheckout(noKey, fc.integer({ min: 1, max: 2 })),
  aCheckout(fc.constantFrom('k1', 'k2'), fc.constantFrom(1, 1, 2)),
  fc.record({ do: fc.constant('cancel'), order: anOrder, reason: fc.constantFrom('customer', 'merchant') }),
  fc.record({ do: fc.constant('extend'), order: anOrder, byMs: fc.constantFrom(1, 5 * minuteMs) }),
  fc.record({ do: fc.constant('expire'), orders: fc.shuffledSubarray(['1', '2', '3'], { minLength: 1 }) }),
  fc.record({ do: fc.constant('expire'), orders: fc.tuple(anOrder) }),
  fc.record({ do: fc.constant('sweep'), limit: fc.constantFrom(1, 10) }),
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
  fc.record({ do: fc.constant('freeze'), freeze: fc.constant('') }),
  fc.constant({ do: 'thaw', freeze: 'A' }),
  fc.constant({ do: 'thaw step', limit: 100 }),
];

/** Three orders, of which some are due, and a freeze that is over, goes on, or is thawing. */
const beginnings: fc.Arbitrary<readonly Command[]> = fc
  .record({
    onHand: fc.integer({ min: 4, max: 6 }),
    windows: fc.array(fc.constantFrom(minuteMs, 2 * minuteMs), { minLength: 3, maxLength: 3 }),
    passMs: fc.constantFrom(0, minuteMs, minuteMs, 3 * minuteMs),
    frozen: fc.constantFrom<Command[]>(
      [{ do: 'thaw', freeze: 'A' }, thawStep, thawStep],
      [],
      [{ do: 'thaw', freeze: 'A' }],
    ),
  })
  .map(({ onHand, windows, passMs, frozen }) => {
    const checkouts = windows.map((windowMs, n): Command => {
      return { do: 'checkout', order: String(n + 1), items: { tea: 1 }, windowMs, key: null };
    });
    const begun: Command[] = [
      { do: 'pass', ms: 1000 },
      { do: 'freeze', freeze: 'A' },
      { do: 'pass', ms: 5000 },
    ];
    const stocked: Command[] = [{ do: 'set stock', sku: 'tea', onHand }];
    return stocked.concat(checkouts, begun, frozen, [{ do: 'pass', ms: passMs + 5000 }]);
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

  async function play({ beginning, asked }: Group): Promise<void> {
    await stage.clear();
    let shop = emptyShop;
    for (const command of beginning) {
      const answer = (await inDatabase(stage, shop, command))();
      // A thaw waits for whatever other tests have open on this server: then the freeze is still thawing.
      if (answer.outcome !== 'waiting') [shop] = inModel(shop, command, answer);
    }
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
