import { afterAll, beforeAll, expect, test } from 'vitest';
import { expectConsistent, openTestOrders, place, type TestOrders } from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const hold = (sku: string, quantity: number) =>
  place(shop.orders, { items: [{ sku, quantity, unitAmount: 1 }] });

test('stock is set, changed and read', async () => {
  expect(await shop.orders.setStock('new', 5)).toEqual({
    outcome: 'changed',
    stock: { sku: 'new', onHand: 5, held: 0, available: 5 },
  });
  expect(await shop.orders.adjustStock('new', -2)).toMatchObject({
    outcome: 'changed',
    stock: { onHand: 3 },
  });
  expect(await shop.orders.adjustStock('new', 4)).toMatchObject({ outcome: 'changed', stock: { onHand: 7 } });
  expect(await shop.orders.readStock('new')).toEqual({ sku: 'new', onHand: 7, held: 0, available: 7 });
});

test('there cannot be less than nothing', async () => {
  await shop.orders.setStock('nothing', 1);
  expect(await shop.orders.setStock('nothing', -1)).toEqual({ outcome: 'below_held' });
  expect(await shop.orders.adjustStock('nothing', -2)).toEqual({ outcome: 'below_held' });
});

test('stock that orders hold cannot be taken away', async () => {
  await shop.orders.setStock('held', 10);
  await hold('held', 4);
  expect(await shop.orders.setStock('held', 3)).toEqual({ outcome: 'below_held' });
  expect(await shop.orders.adjustStock('held', -7)).toEqual({ outcome: 'below_held' });
  expect(await shop.orders.adjustStock('held', -6)).toMatchObject({
    outcome: 'changed',
    stock: { onHand: 4, held: 4, available: 0 },
  });
});

test('stock that nobody counts has no number to change, until it is counted', async () => {
  await shop.orders.setStock('free', null);
  expect(await shop.orders.adjustStock('free', 1)).toEqual({ outcome: 'not_counted' });
  await hold('free', 4);
  expect(await shop.orders.setStock('free', 3)).toEqual({ outcome: 'below_held' });
  expect(await shop.orders.setStock('free', 5)).toMatchObject({
    outcome: 'changed',
    stock: { available: 1 },
  });
});

test.each([
  ['more than can be counted', Number.MAX_SAFE_INTEGER + 1],
  ['more than a bigint holds', 1e20],
])('%s is out of range', async (_, onHand) => {
  await shop.orders.setStock('range', 1);
  expect(await shop.orders.setStock('range', onHand)).toEqual({ outcome: 'out_of_range' });
  expect(await shop.orders.adjustStock('range', onHand - 1)).toEqual({ outcome: 'out_of_range' });
});

test('an unknown SKU is not found', async () => {
  expect(await shop.orders.readStock('unknown')).toBeUndefined();
  expect(await shop.orders.adjustStock('unknown', 1)).toEqual({ outcome: 'sku_not_found' });
});

test('the stock is listed page by page in the order of the SKUs', async () => {
  for (const sku of ['list 3', 'list 1', 'list 2']) await shop.orders.setStock(sku, 1);
  const first = await shop.orders.listStock({ after: 'list ', limit: 2 });
  const second = await shop.orders.listStock({ after: 'list 2', limit: 2 });
  expect(first.map(({ sku }) => sku)).toEqual(['list 1', 'list 2']);
  expect(second[0]?.sku).toBe('list 3');
});

test('adjustments at once add up, beside checkouts', async () => {
  await shop.orders.setStock('busy', 100);
  const other = shop.another().orders;
  await Promise.all(
    Array.from({ length: 50 }, async (_, n) => {
      await (n % 2 === 0 ? shop.orders : other).adjustStock('busy', 2);
      await hold('busy', 1);
    }),
  );
  expect(await shop.orders.readStock('busy')).toEqual({ sku: 'busy', onHand: 200, held: 50, available: 150 });
});
