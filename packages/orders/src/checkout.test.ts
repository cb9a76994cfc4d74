import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  aCheckout,
  deadlineOf,
  expectConsistent,
  openTestOrders,
  place,
  type TestOrders,
} from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders({ partitionCount: 4 });
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const one = (sku: string, quantity = 1) => ({ sku, quantity, unitAmount: 500 });

test('a placed order is stored as it was answered, with its hold and its event', async () => {
  await shop.orders.setStock('stored', 10);
  const order = await place(shop.orders, {
    reference: 'cart 7',
    channel: 'web',
    paymentMethod: 'wallet',
    items: [{ sku: 'stored', quantity: 3, unitAmount: 250 }],
    metadata: { note: 'ring twice', emoji: '🎁' },
  });
  expect(order).toMatchObject({ status: 'pending_payment', amount: 750, remainingMs: 60_000 });
  expect(deadlineOf(order).getTime() - order.createdAt.getTime()).toBe(60_000);
  expect(order.partition).toBeGreaterThanOrEqual(0);
  expect(order.partition).toBeLessThan(4);

  const found = await shop.orders.find(order.id);
  expect(found).toEqual({ ...order, remainingMs: found?.remainingMs });
  expect(await shop.orders.readStock('stored')).toEqual({ sku: 'stored', onHand: 10, held: 3, available: 7 });
  expect(await shop.orders.timeline(order.id)).toEqual([
    {
      id: expect.any(Number),
      type: 'order.placed',
      at: order.createdAt,
      actor: 'test',
      data: { currency: 'EUR', amount: 750, deadlineAt: deadlineOf(order).toISOString() },
    },
  ]);
});

test('1,000 buyers in four processes buy exactly the 100 pieces there are', async () => {
  await shop.orders.setStock('rare', 100);
  const processes = [shop, shop.another(), shop.another(), shop.another()];
  const answers = await Promise.all(
    Array.from({ length: 250 }, () =>
      processes.map(({ orders }) => orders.checkout(aCheckout({ items: [one('rare')] }))),
    ).flat(),
  );
  const outcomes = answers.map(({ outcome }) => outcome);
  expect(outcomes.filter((outcome) => outcome === 'placed').length).toBe(100);
  expect(outcomes.filter((outcome) => outcome === 'out_of_stock').length).toBe(900);
  expect(await shop.orders.readStock('rare')).toMatchObject({ onHand: 100, held: 100, available: 0 });
});

test('an order gets all of its items or none', async () => {
  await shop.orders.setStock('plenty', 10);
  await shop.orders.setStock('scarce', 1);
  await shop.orders.setStock('gone', 0);
  const answer = await shop.orders.checkout(
    aCheckout({ items: [one('plenty', 2), one('scarce', 2), one('gone')] }),
  );
  expect(answer).toEqual({ outcome: 'out_of_stock', skus: ['scarce', 'gone'] });
  expect(await shop.orders.readStock('plenty')).toMatchObject({ held: 0 });
  expect(await shop.orders.readStock('scarce')).toMatchObject({ held: 0 });
});

test('stock goes to those who came first, and what does not fit leaves it to those behind', async () => {
  await shop.orders.setStock('queue', 5);
  // Sent in one turn of the event loop, so that they share a batch.
  const answers = await Promise.all(
    [2, 4, 2, 2, 1, 1].map((quantity) =>
      shop.orders.checkout(aCheckout({ items: [one('queue', quantity)] })),
    ),
  );
  expect(answers.map(({ outcome }) => outcome)).toEqual([
    'placed',
    'out_of_stock',
    'placed',
    'out_of_stock',
    'placed',
    'out_of_stock',
  ]);
});

test('an unknown SKU is named and nothing is held', async () => {
  await shop.orders.setStock('known', 5);
  const answer = await shop.orders.checkout(aCheckout({ items: [one('known'), one('mistyped')] }));
  expect(answer).toEqual({ outcome: 'unknown_sku', skus: ['mistyped'] });
  expect(await shop.orders.readStock('known')).toMatchObject({ held: 0 });
});

test('a SKU that nobody counts never runs out', async () => {
  await shop.orders.setStock('download', null);
  await place(shop.orders, { items: [one('download', 1_000_000)] });
  await place(shop.orders, { items: [one('download', 1_000_000)] });
  expect(await shop.orders.readStock('download')).toEqual({
    sku: 'download',
    onHand: null,
    held: 2_000_000,
    available: null,
  });
});

test('a request that the database refuses fails alone in its batch', async () => {
  await shop.orders.setStock('batch', 1000);
  const answers = await Promise.allSettled(
    Array.from({ length: 200 }, (_, n) =>
      shop.orders.checkout(
        // PostgreSQL's jsonb has no NUL.
        aCheckout({ items: [one('batch')], metadata: n === 77 ? { note: 'a\u0000b' } : {} }),
      ),
    ),
  );
  const refused = answers.flatMap((answer, n) => (answer.status === 'rejected' ? [[n, answer.reason]] : []));
  expect(refused).toEqual([[77, expect.objectContaining({ code: '22P05' })]]);
  expect(await shop.orders.readStock('batch')).toMatchObject({ held: 199 });
});

test('where several requests of a batch are refused, the stock still goes to those who came first', async () => {
  await shop.orders.setStock('fair', 3);
  const answers = await Promise.allSettled(
    ['ok', '\u0000', 'ok', '\u0000', 'ok', 'ok'].map((note) =>
      shop.orders.checkout(aCheckout({ items: [one('fair')], metadata: { note } })),
    ),
  );
  expect(answers.map((answer) => (answer.status === 'fulfilled' ? answer.value.outcome : 'refused'))).toEqual(
    ['placed', 'refused', 'placed', 'refused', 'placed', 'out_of_stock'],
  );
});

test('deadlines are spread over the partitions, and the pending ones are told', async () => {
  await shop.orders.setStock('spread', 1000);
  await Promise.all(Array.from({ length: 200 }, () => place(shop.orders, { items: [one('spread')] })));
  expect(await shop.orders.pendingPartitions()).toEqual([0, 1, 2, 3]);
});
