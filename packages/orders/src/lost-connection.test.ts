import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { DatabaseUnavailable } from '@lapse/runtime';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Orders } from './index.ts';
import {
  aCheckout,
  aPayment,
  expectConsistent,
  openTestOrders,
  placeMany,
  type TestOrders,
} from './testing.ts';

type Fault = 'none' | 'before COMMIT arrives' | 'before COMMIT is answered' | 'always';

/** A proxy before PostgreSQL that ends a connection at its COMMIT, once, where it is told to. */
interface Proxy {
  readonly url: string;
  fault: Fault;
  stop(): void;
}

async function startProxy(url: string): Promise<Proxy> {
  const { hostname, port } = new URL(url);
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    const end = () => {
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) sockets.add(socket.on('error', end).on('close', end));
    client.on('data', (data) => {
      const isLost = proxy.fault === 'before COMMIT arrives' && data.includes('commit\0');
      if (isLost) proxy.fault = 'none';
      if (isLost || proxy.fault === 'always') end();
      else upstream.write(data);
    });
    upstream.on('data', (data) => {
      // The tag of a COMMIT that was done: what the client does not read any more is true all the same.
      const isLost = proxy.fault === 'before COMMIT is answered' && data.includes('COMMIT\0');
      if (isLost) proxy.fault = 'none';
      if (isLost) end();
      else client.write(data);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
  const proxied = new URL(url);
  proxied.host = `127.0.0.1:${address.port}`;
  const proxy: Proxy = {
    url: proxied.href,
    fault: 'none',
    stop() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
  return proxy;
}

let shop: TestOrders;
let proxy: Proxy;
let orders: Orders;
let sku = 0;
beforeAll(async () => {
  shop = await openTestOrders();
  proxy = await startProxy(shop.url);
  orders = shop.another({ url: proxy.url }).orders;
});
beforeEach(async () => {
  proxy.fault = 'none';
  sku += 1;
  await orders.setStock(`sku ${sku}`, 100);
});
afterAll(async () => {
  proxy.stop();
  await expectConsistent(shop.database);
  await shop.close();
});

const items = (quantity = 1) => [{ sku: `sku ${sku}`, quantity, unitAmount: 500 }];
const faults = ['before COMMIT arrives', 'before COMMIT is answered'] as const;

test.each(faults)('a connection lost %s places its orders once', async (fault) => {
  proxy.fault = fault;
  const answers = await Promise.all(
    [1, 2, 3].map((quantity) => orders.checkout(aCheckout({ items: items(quantity) }))),
  );
  expect(proxy.fault).toBe('none');
  expect(answers).toMatchObject([1, 2, 3].map(() => ({ outcome: 'placed', replayed: false })));
  const { orders: stored } = await shop.orders.list({ limit: 1000 });
  const ids = new Set(stored.filter((order) => order.items[0]?.sku === `sku ${sku}`).map(({ id }) => id));
  expect(ids).toEqual(new Set(answers.map((answer) => (answer.outcome === 'placed' ? answer.order.id : ''))));
  expect(await shop.orders.readStock(`sku ${sku}`)).toMatchObject({ onHand: 100, held: 6 });
});

test.each(faults)('a connection lost %s sells the last piece once', async (fault) => {
  await orders.setStock(`sku ${sku}`, 1);
  proxy.fault = fault;
  const answers = await Promise.all([1, 2].map(() => orders.checkout(aCheckout({ items: items() }))));
  expect(answers).toMatchObject([{ outcome: 'placed' }, { outcome: 'out_of_stock' }]);
  expect(await shop.orders.readStock(`sku ${sku}`)).toMatchObject({ held: 1 });
});

test.each(faults)(
  'a connection lost %s leaves an idempotency key as if nothing had been lost',
  async (fault) => {
    const idempotency = { scope: 'test', key: `key ${sku}`, bodyHash: Buffer.from('body') };
    proxy.fault = fault;
    const first = await orders.checkout(aCheckout({ items: items(), idempotency }));
    const again = await orders.checkout(aCheckout({ items: items(), idempotency }));
    expect(first).toMatchObject({ outcome: 'placed', replayed: false });
    expect(again).toMatchObject({ outcome: 'placed', replayed: true });
    expect(await shop.orders.readStock(`sku ${sku}`)).toMatchObject({ held: 1 });
  },
);

test.each(faults)('a connection lost %s pays an order once and says so', async (fault) => {
  const placed = await placeMany(orders, 3, { items: items() });
  proxy.fault = fault;
  const answers = await Promise.all(placed.map((order) => orders.pay(aPayment(order))));
  expect(proxy.fault).toBe('none');
  expect(answers.map(({ outcome }) => outcome)).toEqual(['paid', 'paid', 'paid']);
  expect(await shop.orders.readStock(`sku ${sku}`)).toMatchObject({ onHand: 97, held: 0 });
  for (const { id } of placed) expect((await shop.orders.payments(id)).length).toBe(1);
});

test('a batch whose connection is lost again and again is unavailable, and nothing of it is stored', async () => {
  proxy.fault = 'always';
  const answers = await Promise.allSettled([1, 2].map(() => orders.checkout(aCheckout({ items: items() }))));
  for (const answer of answers) {
    expect(answer).toMatchObject({ status: 'rejected', reason: expect.any(DatabaseUnavailable) });
  }
  expect(await shop.orders.readStock(`sku ${sku}`)).toMatchObject({ held: 0 });
  proxy.fault = 'none';
  expect(await orders.checkout(aCheckout({ items: items() }))).toMatchObject({ outcome: 'placed' });
});
