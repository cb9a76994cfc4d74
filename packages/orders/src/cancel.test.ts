import { afterAll, beforeAll, expect, test } from 'vitest';
import { aPayment, expectConsistent, openTestOrders, place, type TestOrders } from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', 10);
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const cancel = (orderId: string, reason: 'customer' | 'merchant' = 'customer') =>
  shop.orders.cancel({ orderId, reason, actor: 'a person' });

test('a pending order is cancelled before its time, and its stock is on sale again', async () => {
  await shop.orders.setStock('b', 5);
  const order = await place(shop.orders, {
    items: [
      { sku: 'b', quantity: 5, unitAmount: 100 },
      { sku: 'a', quantity: 1, unitAmount: 100 },
    ],
  });
  const answer = await cancel(order.id, 'merchant');
  expect(answer).toMatchObject({
    outcome: 'cancelled',
    order: { id: order.id, status: 'cancelled', cancelReason: 'merchant', remainingMs: 0 },
  });
  expect(answer.outcome === 'cancelled' && (await shop.orders.find(order.id))).toEqual(
    answer.outcome === 'cancelled' && answer.order,
  );
  expect(await shop.orders.readStock('b')).toEqual({ sku: 'b', onHand: 5, held: 0, available: 5 });
  expect((await shop.orders.timeline(order.id)).at(-1)).toMatchObject({
    type: 'order.cancelled',
    actor: 'a person',
    data: { reason: 'merchant' },
  });
});

test('a second cancellation changes nothing', async () => {
  const order = await place(shop.orders);
  const first = await cancel(order.id, 'customer');
  const second = await cancel(order.id, 'merchant');
  expect(second).toEqual({ ...first, outcome: 'already_cancelled' });
  expect((await shop.orders.timeline(order.id)).length).toBe(2);
});

test('a paid order is not cancelled', async () => {
  const order = await place(shop.orders);
  await shop.orders.pay(aPayment(order));
  expect(await cancel(order.id)).toMatchObject({ outcome: 'already_paid', order: { status: 'paid' } });
});

test('an unknown order is not found', async () => {
  expect(await cancel('01890000-0000-7000-8000-000000000000')).toEqual({ outcome: 'order_not_found' });
});

test('of many cancellations at once one does it', async () => {
  const other = shop.another().orders;
  const order = await place(shop.orders);
  const answers = await Promise.all(
    Array.from({ length: 10 }, (_, n) =>
      (n % 2 === 0 ? shop.orders : other).cancel({ orderId: order.id, reason: 'customer', actor: 'test' }),
    ),
  );
  expect(answers.filter(({ outcome }) => outcome === 'cancelled').length).toBe(1);
  expect(answers.filter(({ outcome }) => outcome === 'already_cancelled').length).toBe(9);
});
