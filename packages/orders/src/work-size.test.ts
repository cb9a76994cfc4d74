import { afterAll, beforeAll, expect, test } from 'vitest';
import { aPayment, openTestOrders, place, type TestOrders } from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', null);
});
afterAll(() => shop.close());

test('the work list is counted, with the age of what waits longest, until somebody decides', async () => {
  expect(await shop.orders.workSize()).toEqual({ count: 0, oldestMs: 0 });
  const ids: string[] = [];
  for (const amount of [499, 501]) {
    const paid = await shop.orders.pay(aPayment(await place(shop.orders), { amount }));
    if (!('payment' in paid)) throw new Error(`the payment was not recorded: ${paid.outcome}`);
    ids.push(paid.payment.id);
  }
  const [oldest = ''] = ids;
  await shop.database.query(`update payments set listed_at = listed_at - interval '1 hour' where id = $1`, [
    oldest,
  ]);
  const { count, oldestMs } = await shop.orders.workSize();
  expect(count).toBe(2);
  expect(oldestMs).toBeGreaterThanOrEqual(3_600_000);
  await shop.orders.decideWork({ paymentId: oldest, resolution: 'dismiss', note: 'seen to', actor: 'ann' });
  const left = await shop.orders.workSize();
  expect(left.count).toBe(1);
  expect(left.oldestMs).toBeLessThan(3_600_000);
});
