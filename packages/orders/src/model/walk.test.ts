import { describe, expect, test } from 'vitest';
import type { Said } from './attempts.ts';
import { inModel, isPossible, type Command } from './commands.ts';
import { breaches } from './invariants.ts';
import { emptyShop, type Scope, type Shop } from './shop.ts';
import { begin, checkout, minuteMs, pay, thawStep } from './short.ts';
import { sentence } from './words.ts';

/** Somebody who does several deeds one after the other. Between the steps of a deed others may come. */
interface Actor {
  readonly who: string;
  readonly deeds: readonly (readonly Command[])[];
}

const says = (said: Said): Command => ({ do: 'verdict', attempt: 'a', said });
const attemptPays = (attempt: string, capture: string, excess = 0): Command => ({
  do: 'attempt pays',
  attempt,
  capture,
  excess,
});
const refund = (said: 'sent' | 'confirmed' | 'refused'): Command => ({
  do: 'refund verdict',
  capture: 'bank c1',
  said,
  isFormer: false,
});
const resolve = (resolution: 'refund' | 'accept' | 'dismiss'): Command => ({
  do: 'resolve',
  capture: 'bank c1',
  resolution,
});
const expire: Command = { do: 'expire', orders: ['1'] };
const sweep: Command = { do: 'sweep', limit: 10 };

const frozenFor = (freeze: string, ms: number, scope: Scope = {}): readonly Command[] => [
  { do: 'freeze', freeze, scope },
  { do: 'pass', ms },
];
// The first step moves the orders, the second finds none left.
const thawed = (freeze: string): readonly Command[] => [{ do: 'thaw', freeze }, thawStep, thawStep];

const cancelled: Command = { do: 'cancel', order: '1', reason: 'customer' };
const anotherBuyer: Actor = { who: 'another buyer of the last piece', deeds: [[checkout('2', minuteMs)]] };

/** Some who act on the same order, and where they may begin. */
interface World {
  readonly starts: readonly (readonly Command[])[];
  readonly actors: readonly Actor[];
}

const stocked: Command = { do: 'set stock', sku: 'tea', onHand: 1 };
const onePieceHeld: readonly Command[] = [stocked, checkout('1', minuteMs)];

/** One order holds the last piece: just placed, or at its deadline. */
const withoutAttempts: World = {
  starts: [onePieceHeld, [...onePieceHeld, { do: 'pass', ms: minuteMs }]],
  actors: [
    { who: 'a customer who pays, told twice', deeds: [[pay('1', 'bank c1'), pay('1', 'bank c1')]] },
    { who: 'a second capture', deeds: [[pay('1', 'bank c2')]] },
    { who: 'a wrong amount, then the right one', deeds: [[pay('1', 'bank c3', -1)], [pay('1', 'bank c4')]] },
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
    { who: 'a freeze', deeds: [[...frozenFor('A', 3 * minuteMs), ...thawed('A')]] },
    { who: 'another freeze', deeds: [[...frozenFor('B', 10 * minuteMs), ...thawed('B')]] },
    anotherBuyer,
    {
      who: 'a merchant who takes a piece away and puts it back',
      deeds: [[{ do: 'adjust stock', sku: 'tea', by: -1 }], [{ do: 'adjust stock', sku: 'tea', by: 1 }]],
    },
  ],
};

const tried: readonly Command[] = [
  stocked,
  checkout('1', minuteMs, 'transfer'),
  begin('a', '1', 'bank'),
  { do: 'opened', attempt: 'a' },
];
/** One order holds the last piece, and its customer has a page open: soon after, or when its time is over. */
const withAttempts: World = {
  starts: [tried, [...tried, { do: 'pass to expiry', order: '1', plusMs: 0 }]],
  actors: [
    { who: 'a provider that closes the page', deeds: [[says('closed'), expire]] },
    {
      who: 'a provider that is away',
      deeds: [
        [expire, says('unknown')],
        [says('closed'), sweep],
      ],
    },
    {
      who: 'a provider that tells of a payment, twice',
      deeds: [[attemptPays('a', 'c1'), attemptPays('a', 'c1')]],
    },
    { who: 'a shop that reports the payment', deeds: [[pay('1', 'bank c1')]] },
    { who: 'a shop that reports it wrongly', deeds: [[pay('1', 'bank c1', -1)]] },
    {
      who: 'a customer who pays on a second page',
      deeds: [[begin('b', '1', 'wallet')], [attemptPays('b', 'c2')]],
    },
    { who: 'a job that fires twice', deeds: [[expire, expire]] },
    { who: 'a customer who cancels', deeds: [[cancelled]] },
    { who: 'a support that extends', deeds: [[{ do: 'extend', order: '1', byMs: 20 * minuteMs }]] },
    // Two deeds: while an order stands frozen its customer may open another page, even one whose time was just over.
    {
      who: 'a freeze of the provider',
      deeds: [frozenFor('A', 3 * minuteMs, { provider: 'bank' }), thawed('A')],
    },
    anotherBuyer,
    {
      who: 'a provider that returns it',
      deeds: [[refund('sent')], [refund('confirmed'), refund('confirmed')]],
    },
    { who: 'a provider that does not return it', deeds: [[refund('refused')], [refund('confirmed')]] },
    // Two deeds: what is told in between is to be decided about anew.
    { who: 'a person who accepts it', deeds: [[resolve('accept')], [resolve('accept')]] },
    { who: 'a person who returns it', deeds: [[resolve('refund')], [resolve('refund')]] },
  ],
};

/** What is not possible happens to nobody: a payment by a page that was not opened, for example. */
const after = (shop: Shop, commands: readonly Command[]): Shop =>
  commands.reduce(
    (before, command) => (isPossible(before, command) ? inModel(before, command)[0] : before),
    shop,
  );

/** How it ends once the sweeper has been there: what became of orders, pages and stock, and of how much money. */
function endOf(shop: Shop): string {
  const { orders, attempts, stock, payments } = after(shop, [sweep]);
  const ends = Object.entries(orders).map(([name, { status, cancelReason, deadlineAt }]) =>
    [name, status, cancelReason, status === 'pending_payment' && deadlineAt].join(' '),
  );
  const pages = Object.entries(attempts).map(([name, { state }]) => `${name} ${state}`);
  const money = Object.values(payments).map(({ outcome, verified, listedFor, resolution, refund: way }) =>
    [outcome, verified, listedFor, resolution, way?.state, way?.actor].join(' '),
  );
  return JSON.stringify([ends.toSorted(), pages.toSorted(), stock, money.toSorted()]);
}

const retell = (story: readonly Command[]): string =>
  story.map((command) => `  ${sentence(command)}`).join('\n');

/** Every choice of so many actors. */
function groupsOf(size: number, among: readonly Actor[]): Actor[][] {
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
  test.each([
    [2, 'an order', withoutAttempts],
    [3, 'an order', withoutAttempts],
    [2, 'an order that may be paid at its provider', withAttempts],
    [3, 'an order that may be paid at its provider', withAttempts],
  ])('whatever %i actors do with %s, it ends as if each deed had been done at once', (size, _, world) => {
    let count = 0;
    const ends = new Set<string>();
    for (const commands of world.starts) {
      const start = after(emptyShop, commands);
      for (const group of groupsOf(size, world.actors)) {
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
