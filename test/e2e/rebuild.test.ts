import { inParallel, startRedis, waitFor, type RunningServer } from '@lapse/devstack';
import { Redis } from 'ioredis';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';

import { metric, runScript, startFleet, untilNonePending, type Fleet } from './fleet.ts';

const orderCount = 500;
let dataDir: string;
let redis: RunningServer;
let client: Redis;
let fleet: Fleet;
/** Of the test that runs. */
let placed: string[] = [];

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lapse-rebuild-'));
  redis = await startRedis({ dataDir });
  client = new Redis(redis.url);
  fleet = await startFleet({ redisUrl: redis.url, workerCount: 2, env: { LAPSE_PARTITIONS: '2' } });
  await fleet.client.setStock('mug', null);
});

afterAll(async () => {
  client.disconnect();
  await fleet.expectInvariants();
  await fleet.stop();
  await redis.stop();
  await rm(dataDir, { recursive: true, force: true });
});

afterEach(async () => {
  const orderIds = placed;
  placed = [];
  await inParallel(orderIds.length, 32, (n) => fleet.client.cancel(orderIds[n] ?? ''));
  await untilNonePending(fleet.database, 10_000);
});

async function place(count: number, paymentWindowMs: number) {
  const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];
  const checkout = { currency: 'EUR', items, paymentWindowMs };
  const orders = await inParallel(count, 32, () => fleet.client.checkout(checkout));
  placed.push(...orders.map(({ id }) => id));
  return orders;
}

/** Delayed jobs of all partitions, by the queues' own keys. */
async function armedCount(): Promise<number> {
  const keys = await client.keys('bull:*:delayed');
  const counts = await Promise.all(keys.map((key) => client.zcard(key)));
  return counts.reduce((sum, count) => sum + count, 0);
}

/** The key of the delayed set that holds the job of an order; undefined where none does. */
async function queueOf(orderId: string): Promise<string | undefined> {
  const keys = await client.keys('bull:*:delayed');
  const scores = await Promise.all(keys.map((key) => client.zscore(key, orderId)));
  return keys.find((_, index) => scores[index] !== null);
}

/** Waits until `lapse drift` says so: jobs of orders that were cancelled just now may still be on their way out. */
async function expectDrift(line: string): Promise<void> {
  const env = { DATABASE_URL: fleet.databaseUrl, REDIS_URL: redis.url };
  const told = async () => (await runScript('apps/cli/src/main.ts', ['drift'], env)).output.split('\n');
  await waitFor(async () => (await told()).includes(`${line}.`), { what: line, timeoutMs: 25_000 });
}

test(
  'after a flush every pending deadline is armed again, and fires through its job',
  { timeout: 90_000 },
  async () => {
    await place(orderCount, 60_000);
    // Far enough that they are armed again before it, on a slow machine, too: what is swept before that needs no job.
    const soon = await place(50, 20_000);
    await waitFor(async () => (await armedCount()) >= orderCount + 50, {
      what: 'every job',
      timeoutMs: 10_000,
    });
    await client.flushall();
    await waitFor(async () => (await armedCount()) >= orderCount, { what: 'the rebuild', timeoutMs: 10_000 });

    await waitFor(
      async () => {
        const ended = await Promise.all(soon.map(({ id }) => fleet.client.order(id)));
        return ended.every(({ status }) => status === 'cancelled');
      },
      { what: 'the near ones to lapse', timeoutMs: 40_000 },
    );
    // The sweeper may have been first at an order; its job, which came back, ends all the same.
    const fired = async () => {
      const stories = await Promise.all(soon.map(({ id }) => fleet.client.timeline(id)));
      return stories.every(({ job }) => job?.state === 'completed');
    };
    expect(await waitFor(fired, { what: 'their jobs to fire', timeoutMs: 10_000 })).toBe(true);
  },
);

test('a flush in the middle of a rebuild begins it again', async () => {
  await place(orderCount, 60_000);
  await client.flushall();
  const begun = async () => (await client.keys('bull:*:epoch')).length > 0;
  await waitFor(begun, { what: 'the rebuild to begin', timeoutMs: 10_000 });
  await client.flushall();
  await expectDrift('500 pending orders, 0 without a delayed job');
});

test('jobs that were lost one by one, and jobs without an order, are found and mended', async () => {
  const orders = await place(40, 120_000);
  const lost = orders[0]?.id ?? '';
  // Not the first delayed job: that may be a canary, or one of an order that was cancelled a moment ago.
  const key = await waitFor(() => queueOf(lost), { what: 'its job', timeoutMs: 10_000 });
  await client.zrem(key, lost);
  await client.del(key.replace(/delayed$/, lost));
  // A job whose order is not pending: as after a disarm that never reached Redis.
  const orphan = '00000000-0000-7000-8000-000000000000';
  await client.zadd(key, String((Date.now() + 3_600_000) * 4096), orphan);

  // Orders younger than 5 s are not compared yet.
  await waitFor(async () => (await client.zscore(key, lost)) !== null, {
    what: 'the lost job',
    timeoutMs: 25_000,
  });
  await waitFor(async () => (await client.zscore(key, orphan)) === null, {
    what: 'the orphan to go',
    timeoutMs: 25_000,
  });
  await expectDrift('40 delayed jobs, 0 without a pending order');
});

test('a rebuild by hand says how many it armed', async () => {
  await place(30, 60_000);
  const { output, code } = await runScript('apps/cli/src/main.ts', ['rebuild'], {
    DATABASE_URL: fleet.databaseUrl,
  });
  expect(output).toContain('Armed 30 deadlines');
  expect(code).toBe(0);
  const counts = await Promise.all(
    fleet.workers.map((worker) => metric(worker, 'lapse_rebuild_armed_total')),
  );
  expect(counts.reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(30);
});
