import { startProxy } from '@lapse/devstack';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';

import { openTestOrders, type TestOrders } from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
});
afterAll(() => shop.close());

test.each([0, 30_000, -30_000])('a clock that is %d ms ahead of the database', async (aheadMs) => {
  const rightNow = Date.now.bind(Date);
  // The first measurement also connects.
  await shop.orders.clockOffsetMs();
  vi.spyOn(Date, 'now').mockImplementation(() => rightNow() + aheadMs);
  const offsetMs = await shop.orders.clockOffsetMs();
  vi.restoreAllMocks();
  expect(Math.abs((offsetMs ?? Number.NaN) - aheadMs)).toBeLessThan(250);
});

test('a database that takes longer than half a second to answer says nothing', async () => {
  const { hostname: host, port } = new URL(shop.url);
  const proxy = await startProxy({ target: { host, port: Number(port) } });
  const { orders, database } = shop.another({ url: proxy.urlFor(shop.url), max: 1 });
  await orders.clockOffsetMs();
  expect(await orders.clockOffsetMs()).toEqual(expect.any(Number));
  proxy.delay(300);
  expect(await orders.clockOffsetMs()).toBeUndefined();
  await database.end();
  await proxy.stop();
});
