import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Order } from './order.ts';
import {
  aPayment,
  expectConsistent,
  makeDue,
  openTestOrders,
  placeMany,
  type TestOrders,
} from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', 100_000);
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

/** Starts all contenders in a random order, in the same turn of the event loop or some turns apart. */
async function race<Answer>(contenders: readonly (() => Promise<Answer>)[]): Promise<Answer[]> {
  const answers: Promise<Answer>[] = [];
  const starts = contenders
    .map((start, n) => ({ n, start, at: Math.random() }))
    .toSorted((a, b) => a.at - b.at);
  for (const { n, start } of starts) {
    answers[n] = start();
    const turns = Math.random() < 0.5 ? 0 : Math.random() * 60;
    for (let turn = 0; turn < turns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  }
  return Promise.all(answers);
}

/** Runs a race for each order, 20 at a time. */
async function raceForEach(
  orders: readonly Order[],
  run: (order: Order) => Promise<string>,
): Promise<Map<string, number>> {
  const results = new Map<string, number>();
  for (let start = 0; start < orders.length; start += 20) {
    for (const result of await Promise.all(orders.slice(start, start + 20).map(run))) {
      results.set(result, (results.get(result) ?? 0) + 1);
    }
  }
  return results;
}

test('of payment and expiry one wins, 2,000 times, and the other sees it', { timeout: 120_000 }, async () => {
  const [payer, worker, otherWorker] = [shop.another().orders, shop.another().orders, shop.another().orders];
  const orders = await placeMany(shop.orders, 2000);
  await makeDue(shop.database, orders);
  const results = await raceForEach(orders, async (order) => {
    const expiring = Math.random() < 0.5 ? worker : otherWorker;
    const [paid, expired] = await race<string | undefined>([
      async () => (await payer.pay(aPayment(order))).outcome,
      async () => (await expiring.expire([order.id], 'test')).get(order.id)?.answer,
    ]);
    return `${paid}, ${expired}`;
  });
  expect([...results.keys()].toSorted()).toEqual(['late, cancelled', 'paid, settled']);
  expect([...results.values()].reduce((sum, count) => sum + count)).toBe(2000);
});

test(
  'of two payments, two cancellations, two expiries and sweeps one wins',
  { timeout: 120_000 },
  async () => {
    const [one, two] = [shop.another().orders, shop.another().orders];
    const orders = await placeMany(shop.orders, 600);
    await makeDue(shop.database, orders);
    const swept: string[] = [];
    const sweep = async () => {
      // It takes what it finds: its prize may be an order of the race beside this one.
      for (const [id, { answer }] of await shop.orders.sweep(2, 'test'))
        if (answer === 'cancelled') swept.push(id);
      return undefined;
    };
    const prizes = await raceForEach(orders, async (order) => {
      const { id: orderId } = order;
      const answers = await race<string | undefined>([
        async () => `pay: ${(await one.pay(aPayment(order))).outcome}`,
        async () =>
          `pay: ${(await two.pay(aPayment(order, { providerPaymentId: `2nd of ${orderId}` }))).outcome}`,
        async () => `cancel: ${(await one.cancel({ orderId, reason: 'customer', actor: 'test' })).outcome}`,
        async () => `cancel: ${(await two.cancel({ orderId, reason: 'merchant', actor: 'test' })).outcome}`,
        async () => `expire: ${(await one.expire([orderId], 'test')).get(orderId)?.answer}`,
        async () => `expire: ${(await two.expire([orderId], 'test')).get(orderId)?.answer}`,
        ...(Math.random() < 0.1 ? [sweep] : []),
      ]);
      const won = answers.filter((answer) =>
        /^(?:pay: paid|(?:cancel|expire): cancelled)$/.test(answer ?? ''),
      );
      return won.length === 0 ? orderId : won.join(' and ');
    });
    const winners = ['pay: paid', 'cancel: cancelled', 'expire: cancelled'];
    for (const winner of winners) expect(prizes.get(winner)).toBeGreaterThan(0);
    // Whatever none of them won, a sweep did, once.
    expect([...prizes.keys()].filter((prize) => !winners.includes(prize)).toSorted()).toEqual(
      swept.toSorted(),
    );
    expect(swept.length).toBeGreaterThan(0);
  },
);

test('an order whose time is extended in the last moment is not expired', { timeout: 120_000 }, async () => {
  const [customer, worker] = [shop.another().orders, shop.another().orders];
  const orders = await placeMany(shop.orders, 400);
  await makeDue(shop.database, orders);
  const results = await raceForEach(orders, async (order) => {
    const [extended, expired, paid] = await race<string | undefined>([
      async () =>
        (await customer.extend({ orderId: order.id, to: { byMs: 3_600_000 }, actor: 'test' })).outcome,
      async () => (await worker.expire([order.id], 'test')).get(order.id)?.answer,
      async () => (await shop.orders.pay(aPayment(order))).outcome,
    ]);
    return `${extended}, ${expired}, ${paid}`;
  });
  const legal = new Set([
    'extended, not_due, paid',
    'extended, settled, paid',
    'not_pending, cancelled, late',
    'not_pending, settled, paid',
  ]);
  expect([...results.keys()].filter((result) => !legal.has(result))).toEqual([]);
  expect(results.get('extended, not_due, paid')).toBeGreaterThan(0);
  expect(results.get('not_pending, cancelled, late')).toBeGreaterThan(0);
});
