import { beforeEach, expect, test } from 'vitest';
import type { Order } from './order.ts';
import { makeDue, openAttempt, openTestOrders, place, placeOverdue, type TestOrders } from './testing.ts';

let shop: TestOrders;
beforeEach(async () => {
  shop = await openTestOrders({ brake: { orders: 1, share: 0 } });
  await shop.orders.setStock('a', null);
  return () => shop.close();
});

const nothing = { overdueCount: 0, oldestOverdueMs: 0 };

/** An order whose time ended a minute ago. */
async function overdue(changes: Parameters<typeof place>[1] = {}): Promise<Order> {
  const order = await place(shop.orders, changes);
  await makeDue(shop.database, [order], 60_000);
  return order;
}

test('an order whose providers are being asked is not late, whether it is asked about now or again', async () => {
  const order = await place(shop.orders);
  const { id: attemptId } = await openAttempt(shop.orders, order.id);
  await makeDue(shop.database, [order], 60_000);
  expect(await shop.orders.backlog()).toEqual(nothing);
  await shop.orders.sweep(10, 'test');
  await shop.orders.recordVerdict({ attemptId, verdict: 'unknown', actor: 'test' });
  await shop.database.query(`update orders set check_at = clock_timestamp() - interval '1 second'`);
  expect(await shop.orders.backlog()).toEqual(nothing);
  // The provider has spoken, and now it is expiry that is behind.
  await shop.orders.recordVerdict({ attemptId, verdict: 'closed', actor: 'test' });
  expect(await shop.orders.backlog()).toMatchObject({ overdueCount: 1 });
});

test('an order that a freeze holds is not late, until its thaw has moved it; one of another channel is', async () => {
  const frozen = await overdue({ channel: 'kiosk' });
  const { id } = await shop.orders.freeze({ reason: 'test', actor: 'test', scope: { channel: 'kiosk' } });
  expect(await shop.orders.backlog()).toEqual(nothing);
  const late = await overdue();
  expect(await shop.orders.backlog()).toMatchObject({ overdueCount: 1 });
  await shop.orders.expire([late.id], 'test');
  await shop.orders.thaw(id, 'test');
  expect(await shop.orders.backlog()).toEqual(nothing);
  while ((await shop.orders.thawStep(10)).state !== 'done');
  // It was overdue before the freeze.
  expect(await shop.orders.backlog()).toMatchObject({ overdueCount: 1 });
  expect((await shop.orders.expire([frozen.id], 'test')).get(frozen.id)).toMatchObject({
    answer: 'cancelled',
  });
});

test('while everybody is frozen nothing is late; what the brake holds is', async () => {
  await placeOverdue(shop.database, 3, 600_000);
  const { id } = await shop.orders.freeze({ reason: 'test', actor: 'test' });
  expect(await shop.orders.backlog()).toEqual(nothing);
  await shop.orders.thaw(id, 'test');
  while ((await shop.orders.thawStep(10)).state !== 'done');
  await shop.orders.sweep(10, 'test');
  expect(await shop.orders.activeBrake()).toMatchObject({ state: 'frozen' });
  expect(await shop.orders.backlog()).toMatchObject({ overdueCount: 3 });
});
