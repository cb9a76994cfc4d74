import { inParallel, type Proxy, type RunningServer, startProxy, startRedis, waitFor } from '@lapse/devstack';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { startFleet, untilNonePending, type Fleet } from './fleet.ts';

let dataDir: string;
let redis: RunningServer;
let proxy: Proxy;
let fleet: Fleet;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lapse-redis-faults-'));
  redis = await startRedis({ dataDir });
  proxy = await startProxy({ target: { host: '127.0.0.1', port: redis.port } });
  fleet = await startFleet({ redisUrl: proxy.urlFor(redis.url) });
  await fleet.client.setStock('mug', null);
});

afterAll(async () => {
  await fleet.expectInvariants();
  await fleet.stop();
  await proxy.stop();
  await redis.stop();
  await rm(dataDir, { recursive: true, force: true });
});

const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];

/** Places orders, all answered with 201, and waits until the sweeper has cancelled them within its bound. */
async function expectSwept(count: number): Promise<void> {
  const orders = await inParallel(count, 20, () =>
    fleet.client.checkout({ currency: 'EUR', items, paymentWindowMs: 1000 }),
  );
  await untilNonePending(fleet.database, 15_000);
  const { rows } = await fleet.database.query<{ actor: string; lateness: number }>(
    `select actor, max((data->>'latenessMs')::float8) as lateness from events
     where type = 'order.cancelled' and order_id = any ($1) group by actor`,
    [orders.map(({ id }) => id)],
  );
  expect(rows.map(({ actor }) => actor)).toEqual(['sweeper']);
  // The promise itself (invariant 5), not a measure of speed.
  expect(rows[0]?.lateness).toBeLessThan(3000);
}

async function redisState(): Promise<unknown> {
  const ready = await fetch(`${fleet.apis[0]?.url ?? ''}/readyz`);
  expect(ready.status).toBe(200);
  return Reflect.get(Object(await ready.json()), 'redis');
}

test('a black-holed Redis: orders are taken all the same, and cancelled by the sweeper', async () => {
  proxy.blackhole();
  await expectSwept(100);
  await proxy.restore();
});

test('a Redis that is gone: orders are taken all the same, and cancelled by the sweeper', async () => {
  await proxy.refuse();
  await expectSwept(100);
  expect(await redisState()).toBe('unreachable');
  await proxy.restore();
});

test('a payment without Redis is taken, and its job is gone or finds the order settled later', async () => {
  await waitFor(async () => (await redisState()) === 'ok', { what: 'Redis to be back', timeoutMs: 10_000 });
  const order = await fleet.client.checkout({ currency: 'EUR', items, paymentWindowMs: 3000 });
  await proxy.refuse();
  const { outcome } = await fleet.client.pay(order.id, {
    provider: 'shop',
    providerPaymentId: order.id,
    amount: 100,
    currency: 'EUR',
  });
  expect(outcome).toBe('paid');
  await proxy.restore();
  await waitFor(
    async () => {
      const { job } = await fleet.client.timeline(order.id);
      // It fires and completes, unless the comparison of jobs and rows removed it before.
      return job === null || job.state === 'completed';
    },
    { what: 'the job to complete or to be removed', timeoutMs: 20_000 },
  );
  expect((await fleet.client.order(order.id)).status).toBe('paid');
});

test('when Redis is back, deadlines are armed and fire through the queue again', async () => {
  const fired = await waitFor(
    async () => {
      const order = await fleet.client.checkout({ currency: 'EUR', items, paymentWindowMs: 1000 });
      await untilNonePending(fleet.database, 10_000);
      const { events } = await fleet.client.timeline(order.id);
      return events.at(-1)?.actor === 'worker';
    },
    { what: 'an order cancelled by its job', timeoutMs: 30_000 },
  );
  expect(fired).toBe(true);
});
