import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Order } from './order.ts';
import { aPayment, expectConsistent, openTestOrders, place, type TestOrders } from './testing.ts';

let shop: TestOrders;
let orders: Order[];
beforeAll(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', 1000);
  orders = [];
  for (let n = 0; n < 12; n += 1) {
    orders.push(
      await place(shop.orders, {
        channel: n % 2 === 0 ? 'web' : 'shop',
        reference: n < 4 ? `cart ${n % 2}` : null,
      }),
    );
  }
  for (const order of orders.slice(0, 3)) await shop.orders.pay(aPayment(order));
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const idsOf = (found: readonly Order[]) => found.map(({ id }) => id);
const placed = (...numbers: number[]) => numbers.map((n) => orders[n]?.id);

test('an order is found by its id, another one is not', async () => {
  const [order] = orders.slice(5);
  expect(await shop.orders.find(order?.id ?? '')).toMatchObject({ id: order?.id, status: 'pending_payment' });
  expect(await shop.orders.find('01890000-0000-7000-8000-000000000000')).toBeUndefined();
});

test('the time that remains is counted down to 0', async () => {
  const order = await place(shop.orders, { paymentWindowMs: 1 });
  expect(order.remainingMs).toBe(1);
  for (;;) {
    const remainingMs = (await shop.orders.find(order.id))?.remainingMs;
    expect([0, 1]).toContain(remainingMs);
    if (remainingMs === 0) break;
  }
  await shop.orders.cancel({ orderId: order.id, reason: 'customer', actor: 'test' });
});

test('orders are listed newest first, page by page', async () => {
  const listed: string[] = [];
  let before: string | undefined;
  for (;;) {
    const page = await shop.orders.list({ channel: 'web', before, limit: 4 });
    listed.push(...idsOf(page.orders));
    if (page.before === null) break;
    before = page.before;
  }
  expect(listed).toEqual(placed(10, 8, 6, 4, 2, 0));
});

test.each([
  ['status', { status: 'paid' }, [2, 1, 0]],
  ['channel', { channel: 'shop' }, [11, 9, 7, 5, 3, 1]],
  ['reference', { reference: 'cart 1' }, [3, 1]],
  ['all of them', { status: 'paid', channel: 'web', reference: 'cart 0' }, [2, 0]],
  ['what no order has', { reference: 'cart 7' }, []],
] as const)('orders are filtered by %s', async (_, filter, expected) => {
  const page = await shop.orders.list({ ...filter, limit: 100 });
  expect(idsOf(page.orders)).toEqual(placed(...expected));
  expect(page.before).toBeNull();
});

test('an order that is not there has no story and no payments', async () => {
  const id = '01890000-0000-7000-8000-000000000000';
  expect(await shop.orders.timeline(id)).toEqual([]);
  expect(await shop.orders.payments(id)).toEqual([]);
});
