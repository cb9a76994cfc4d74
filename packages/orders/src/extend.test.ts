import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  aPayment,
  deadlineOf,
  expectConsistent,
  makeDue,
  openTestOrders,
  place,
  type TestOrders,
} from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', 1000);
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const dayMs = 86_400_000;

test('an order is extended from its old deadline on', async () => {
  const order = await place(shop.orders);
  const answer = await shop.orders.extend({ orderId: order.id, to: { byMs: 30_000 }, actor: 'support' });
  const deadlineAt = new Date(deadlineOf(order).getTime() + 30_000);
  expect(answer).toMatchObject({
    outcome: 'extended',
    order: { id: order.id, deadlineAt, expireAt: deadlineAt },
  });
  expect((await shop.orders.timeline(order.id)).at(-1)).toMatchObject({
    type: 'order.extended',
    actor: 'support',
    data: { from: deadlineOf(order).toISOString(), to: deadlineAt.toISOString() },
  });
  const { rows } = await shop.database.query('select check_at as "checkAt" from orders where id = $1', [
    order.id,
  ]);
  expect(rows).toEqual([{ checkAt: deadlineAt }]);
});

test('an order is extended to an instant, and keeps its grace', async () => {
  const order = await place(shop.orders);
  await shop.database.query(
    `update orders set expire_at = expire_at + interval '5 s', check_at = check_at + interval '5 s' where id = $1`,
    [order.id],
  );
  const deadlineAt = new Date(deadlineOf(order).getTime() + dayMs);
  expect(await shop.orders.extend({ orderId: order.id, to: { deadlineAt }, actor: 'test' })).toMatchObject({
    outcome: 'extended',
    order: { deadlineAt, expireAt: new Date(deadlineAt.getTime() + 5000) },
  });
});

test('an overdue order that is still pending is extended and not expired any more', async () => {
  const order = await place(shop.orders);
  await makeDue(shop.database, [order], 1000);
  expect(await shop.orders.extend({ orderId: order.id, to: { byMs: 60_000 }, actor: 'test' })).toMatchObject({
    outcome: 'extended',
  });
  expect(await shop.orders.sweep(10, 'test')).toEqual(new Map());
  expect((await shop.orders.expire([order.id], 'test')).get(order.id)).toMatchObject({ answer: 'not_due' });
});

test.each([
  ['before the old deadline', { byMs: -1 }],
  ['at the old deadline', { byMs: 0 }],
  ['more than 90 days ahead', { byMs: 90 * dayMs }],
  ['in the past', { deadlineAt: new Date(0) }],
])('a new deadline %s is out of range', async (_, to) => {
  const order = await place(shop.orders);
  const answer = await shop.orders.extend({ orderId: order.id, to, actor: 'test' });
  expect(answer).toMatchObject({ outcome: 'out_of_range', order: { deadlineAt: order.deadlineAt } });
  expect((await shop.orders.timeline(order.id)).length).toBe(1);
});

test('a new deadline after the old one that has passed already is out of range', async () => {
  const order = await place(shop.orders);
  await makeDue(shop.database, [order], 60_000);
  expect(await shop.orders.extend({ orderId: order.id, to: { byMs: 1000 }, actor: 'test' })).toMatchObject({
    outcome: 'out_of_range',
  });
});

test('an order that is settled is not extended', async () => {
  const [paid, cancelled] = [await place(shop.orders), await place(shop.orders)];
  await shop.orders.pay(aPayment(paid));
  await shop.orders.cancel({ orderId: cancelled.id, reason: 'customer', actor: 'test' });
  const extend = (orderId: string) => shop.orders.extend({ orderId, to: { byMs: 1000 }, actor: 'test' });
  expect(await extend(paid.id)).toMatchObject({ outcome: 'not_pending', order: { status: 'paid' } });
  expect(await extend(cancelled.id)).toMatchObject({
    outcome: 'not_pending',
    order: { status: 'cancelled' },
  });
  expect(await extend('01890000-0000-7000-8000-000000000000')).toEqual({ outcome: 'order_not_found' });
});

test('extensions at once add up', async () => {
  const order = await place(shop.orders);
  const other = shop.another().orders;
  await Promise.all(
    Array.from({ length: 10 }, (_, n) =>
      (n % 2 === 0 ? shop.orders : other).extend({ orderId: order.id, to: { byMs: 1000 }, actor: 'test' }),
    ),
  );
  expect((await shop.orders.find(order.id))?.deadlineAt?.getTime()).toBe(
    deadlineOf(order).getTime() + 10_000,
  );
});
