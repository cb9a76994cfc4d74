import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { startProxy, waitFor } from '@lapse/devstack';
import { connectRedis, createMetrics, type Metrics, type Service } from '@lapse/runtime';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { partitionQueueName, workerSettings } from './catalog.ts';
import type { Deadlines } from './deadlines.ts';
import type { ExpireAnswer } from './fire.ts';
import { QueueWorker } from './queue-worker.ts';
import {
  connectedDeadlines,
  metric,
  newDeadline,
  silent,
  startTestRedis,
  unwatched,
  type TestRedis,
} from './testing.ts';
import { deadlineWorker } from './worker.ts';

let redis: TestRedis;
let deadlines: Deadlines;
let worker: Service | undefined;
let metrics: Metrics;
beforeAll(async () => {
  redis = await startTestRedis();
  ({ deadlines } = await connectedDeadlines(redis.url));
});
afterAll(async () => {
  await deadlines.stop();
  await redis.stop();
});
beforeEach(async () => {
  await redis.client.flushall();
});
afterEach(async () => {
  await worker?.stop();
  worker = undefined;
});

const minuteMs = 60_000;
const cancelled: ExpireAnswer = { answer: 'cancelled', latenessMs: 3 };

/** Starts a worker whose orders are answered one by one; returns the calls it made. */
async function startWorker(options: {
  answer: (orderId: string) => ExpireAnswer | Promise<ExpireAnswer>;
  partitions?: () => Promise<readonly number[]>;
  url?: string;
}): Promise<{ calls: string[][]; firesOf: (orderId: string) => number }> {
  const calls: string[][] = [];
  metrics = createMetrics();
  worker = deadlineWorker({
    redisUrl: options.url ?? redis.url,
    log: silent,
    metrics,
    partitions: options.partitions ?? (() => Promise.resolve([0])),
    partitionsEveryMs: 50,
    ...unwatched,
    async expire(orderIds) {
      calls.push([...orderIds]);
      const answers = orderIds.map(async (orderId) => [orderId, await options.answer(orderId)] as const);
      return new Map(await Promise.all(answers));
    },
  });
  await worker.start();
  return { calls, firesOf: (orderId) => calls.flat().filter((id) => id === orderId).length };
}

const stateOf = async (orderId: string, partition = 0) =>
  (await deadlines.inspect({ orderId, partition }))?.state ?? null;

const reaches = (orderId: string, state: string, timeoutMs = 5000) =>
  waitFor(async () => (await stateOf(orderId)) === state, { what: `the job to be ${state}`, timeoutMs });

describe('a fired job', () => {
  test('comes to expire once, at its time, and completes with the answer', async () => {
    const deadline = newDeadline(300);
    let firedAt = 0;
    const { firesOf } = await startWorker({
      answer: () => {
        firedAt = Date.now();
        return cancelled;
      },
    });
    await deadlines.arm(deadline);
    await reaches(deadline.orderId, 'completed');
    expect(firedAt - deadline.expireAt.getTime()).toBeGreaterThanOrEqual(0);
    expect(firedAt - deadline.expireAt.getTime()).toBeLessThan(250);
    expect(firesOf(deadline.orderId)).toBe(1);
    expect((await deadlines.queue(0).getJob(deadline.orderId))?.returnvalue).toBe('cancelled');
    expect(await metric(metrics, 'lapse_deadline_fires_total', 'cancelled')).toBe(1);
  });

  test.each(['settled', 'frozen'] as const)('of an order that is %s completes', async (answer) => {
    const deadline = newDeadline(0);
    await startWorker({ answer: () => ({ answer }) });
    await deadlines.arm(deadline);
    await reaches(deadline.orderId, 'completed');
    expect((await deadlines.queue(0).getJob(deadline.orderId))?.returnvalue).toBe(answer);
  });

  test('of a frozen order is armed again by the thaw, though it is kept', async () => {
    const deadline = newDeadline(0);
    let frozen = true;
    const { firesOf } = await startWorker({ answer: () => (frozen ? { answer: 'frozen' } : cancelled) });
    await deadlines.arm(deadline);
    await reaches(deadline.orderId, 'completed');
    frozen = false;
    const thawed = { ...deadline, expireAt: new Date(Date.now() + 100) };
    expect(await deadlines.armMany([thawed])).toMatchObject({ armed: 1, failed: 0 });
    await waitFor(() => firesOf(deadline.orderId) === 2, { what: 'the second fire' });
  });

  test('with a lost hash is looked at all the same', async () => {
    const deadline = newDeadline(200);
    await deadlines.arm(deadline);
    await redis.client.del(deadlines.queue(0).toKey(deadline.orderId));
    const { calls } = await startWorker({ answer: () => cancelled });
    await waitFor(() => calls.length > 0, { what: 'the fire' });
    expect(calls).toEqual([[deadline.orderId]]);
    await reaches(deadline.orderId, 'completed');
  });

  test('with a lost hash that is not due is delayed again', async () => {
    const deadline = newDeadline(100);
    await deadlines.arm(deadline);
    await redis.client.del(deadlines.queue(0).toKey(deadline.orderId));
    const { firesOf } = await startWorker({
      answer: (orderId) => (firesOf(orderId) > 1 ? cancelled : { answer: 'not_due', remainingMs: 200 }),
    });
    await reaches(deadline.orderId, 'completed');
    expect(firesOf(deadline.orderId)).toBe(2);
  });

  test.each([
    [{ answer: 'unknown' } as const, 'there is no such order'],
    [{ answer: 'failed', error: new Error('the order has no items') } as const, 'the order has no items'],
  ])('that nobody can mend fails, to be seen: %j', async (answer, reason) => {
    const deadline = newDeadline(0);
    const { firesOf } = await startWorker({ answer: () => answer });
    await deadlines.arm(deadline);
    await reaches(deadline.orderId, 'failed');
    expect((await deadlines.queue(0).getJob(deadline.orderId))?.failedReason).toBe(reason);
    expect(firesOf(deadline.orderId)).toBe(1);
  });

  test('that failed is kept with no more than 1,000 others', async () => {
    const many = Array.from({ length: 1200 }, () => newDeadline(0));
    await startWorker({ answer: () => ({ answer: 'unknown' }) });
    await deadlines.armMany(many);
    await waitFor(async () => (await metric(metrics, 'lapse_deadline_fires_total', 'unknown')) === 1200, {
      what: 'all fires',
    });
    await waitFor(async () => (await deadlines.depths([0])).get(0)?.active === 0, {
      what: 'all jobs to end',
    });
    expect((await deadlines.depths([0])).get(0)).toMatchObject({ failed: workerSettings.removeOnFail.count });
  });

  test.each(['7', 'not-a-uuid', randomUUID().toUpperCase()])(
    "with the id '%s' fails unseen by expire",
    async (id) => {
      const { calls } = await startWorker({ answer: () => cancelled });
      const job = await deadlines.queue(0).add('expire', {}, id === '7' ? {} : { jobId: id });
      const jobId = job.id ?? '';
      await reaches(jobId, 'failed');
      expect((await deadlines.queue(0).getJob(jobId))?.failedReason).toBe(`'${jobId}' is not an order id`);
      expect(calls).toEqual([]);
    },
  );

  test('that expire does not answer for fails', async () => {
    const deadline = newDeadline(0);
    metrics = createMetrics();
    worker = deadlineWorker({
      redisUrl: redis.url,
      log: silent,
      metrics,
      partitions: () => Promise.resolve([0]),
      ...unwatched,
      expire: () => Promise.resolve(new Map()),
    });
    await worker.start();
    await deadlines.arm(deadline);
    await reaches(deadline.orderId, 'failed');
    expect((await deadlines.queue(0).getJob(deadline.orderId))?.failedReason).toBe('expire gave no answer');
  });
});

describe('an order that is not due', () => {
  test('is looked at again when its remaining time is over, not sooner', async () => {
    const deadline = newDeadline(100);
    const { firesOf } = await startWorker({ answer: () => ({ answer: 'not_due', remainingMs: 300 }) });
    await deadlines.arm(deadline);
    await waitFor(() => firesOf(deadline.orderId) === 1, { what: 'the first fire' });
    await delay(1000);
    expect(firesOf(deadline.orderId)).toBeGreaterThanOrEqual(2);
    expect(firesOf(deadline.orderId)).toBeLessThanOrEqual(5);
    expect((await deadlines.depths([0])).get(0)).toMatchObject({ completed: 0, failed: 0 });
  });

  test('does not spin, even if nothing seems to remain', async () => {
    const deadline = newDeadline(0);
    const { firesOf } = await startWorker({ answer: () => ({ answer: 'not_due', remainingMs: 0 }) });
    await deadlines.arm(deadline);
    await waitFor(() => firesOf(deadline.orderId) === 1, { what: 'the first fire' });
    const startedAt = performance.now();
    await delay(500);
    expect(firesOf(deadline.orderId)).toBeLessThanOrEqual(2 + (performance.now() - startedAt) / 25);
  });

  test('because it was extended before it fired, fires at its new time only', async () => {
    const deadline = newDeadline(200);
    const firedAt: number[] = [];
    await startWorker({
      answer: () => {
        firedAt.push(Date.now());
        return cancelled;
      },
    });
    await deadlines.arm(deadline);
    const extended = { ...deadline, expireAt: new Date(deadline.expireAt.getTime() + 500) };
    await deadlines.rearm(extended);
    await reaches(deadline.orderId, 'completed');
    expect(firedAt).toHaveLength(1);
    expect(firedAt[0]).toBeGreaterThanOrEqual(extended.expireAt.getTime());
  });

  test('because it was extended while a worker had it, ends as one delayed job', async () => {
    const deadline = newDeadline(0);
    const extended = { ...deadline, expireAt: new Date(deadline.expireAt.getTime() + minuteMs) };
    await startWorker({
      async answer() {
        await deadlines.rearm(extended);
        return { answer: 'not_due', remainingMs: extended.expireAt.getTime() - Date.now() };
      },
    });
    await deadlines.arm(deadline);
    await reaches(deadline.orderId, 'delayed');
    const firesAt = (await deadlines.inspect(deadline))?.firesAt?.getTime() ?? 0;
    expect(Math.abs(firesAt - extended.expireAt.getTime())).toBeLessThan(50);
    expect((await deadlines.depths([0])).get(0)).toMatchObject({ delayed: 1, active: 0 });
  });
});

test('while expire rejects, jobs are delayed and never fail; afterwards every order expires', async () => {
  const all = Array.from({ length: 50 }, () => newDeadline(0));
  let broken = true;
  const { firesOf } = await startWorker({
    answer: () => (broken ? Promise.reject(new Error('the database is down')) : cancelled),
  });
  await deadlines.armMany(all);
  await waitFor(async () => (await metric(metrics, 'lapse_expiry_retries_total')) >= 150, {
    what: 'retries',
  });
  const mostFires = Math.max(...all.map(({ orderId }) => firesOf(orderId)));
  broken = false;
  await waitFor(async () => (await deadlines.depths([0])).get(0)?.completed === 50, {
    what: 'all orders to expire',
    timeoutMs: 10_000,
  });
  // 250, 500, 1000 ms…: about three rounds, not a loop.
  expect(mostFires).toBeLessThanOrEqual(6);
  expect((await deadlines.depths([0])).get(0)).toEqual({
    delayed: 0,
    waiting: 0,
    active: 0,
    completed: 50,
    failed: 0,
  });
});

test('orders of several partitions that fall due together come to expire together', async () => {
  const all = Array.from({ length: 400 }, (_, index) => newDeadline(300, { partition: index % 4 }));
  await deadlines.armMany(all);
  const { calls } = await startWorker({
    answer: () => delay(5, cancelled),
    partitions: () => Promise.resolve([0, 1, 2, 3]),
  });
  await waitFor(() => calls.flat().length === 400, { what: 'all fires' });
  expect(new Set(calls.flat()).size).toBe(400);
  expect(calls.length).toBeLessThan(200);
});

describe('partitions', () => {
  test('that appear are consumed, those that vanish are left alone', async () => {
    let partitions: readonly number[] = [0];
    const { firesOf } = await startWorker({
      answer: () => cancelled,
      partitions: () => Promise.resolve(partitions),
    });
    const fires = async (partition: number): Promise<void> => {
      const deadline = newDeadline(50, { partition });
      await deadlines.arm(deadline);
      await waitFor(() => firesOf(deadline.orderId) === 1, { what: `partition ${partition} to fire` });
    };
    await fires(0);
    const before = await connectionCount();
    partitions = [0, 5];
    await fires(5);
    await fires(0);
    partitions = [5];
    await waitFor(async () => (await connectionCount()) === before, {
      what: "partition 0's worker to close",
    });
    const left = newDeadline(50);
    await deadlines.arm(left);
    await fires(5);
    await delay(200);
    expect(firesOf(left.orderId)).toBe(0);
    partitions = [0, 5];
    await waitFor(() => firesOf(left.orderId) === 1, { what: 'partition 0 to be consumed again' });
  });

  test('that cannot be do not keep the others from being consumed', async () => {
    const { firesOf } = await startWorker({
      answer: () => cancelled,
      partitions: () => Promise.resolve([64, -1, 3]),
    });
    const deadline = newDeadline(20, { partition: 3 });
    await deadlines.arm(deadline);
    await waitFor(() => firesOf(deadline.orderId) > 0, { what: 'the fire' });
    expect(firesOf(deadline.orderId)).toBe(1);
  });

  test('that cannot be read leave the workers as they are', async () => {
    let readable = true;
    const { firesOf } = await startWorker({
      answer: () => cancelled,
      partitions: () => (readable ? Promise.resolve([0]) : Promise.reject(new Error('the database is down'))),
    });
    const [before, after] = [newDeadline(20), newDeadline(20)];
    await deadlines.arm(before);
    await reaches(before.orderId, 'completed');
    readable = false;
    await delay(200);
    await deadlines.arm(after);
    await reaches(after.orderId, 'completed');
    expect(firesOf(after.orderId)).toBe(1);
  });
});

describe('stopping', () => {
  test('finishes what is in hand', async () => {
    const deadline = newDeadline(0);
    const { calls } = await startWorker({ answer: () => delay(500, cancelled) });
    await deadlines.arm(deadline);
    await waitFor(() => calls.length === 1, { what: 'the fire' });
    await worker?.stop();
    expect(await stateOf(deadline.orderId)).toBe('completed');
  });

  test('leaves no connection and no handle behind', async () => {
    const before = { connections: await connectionCount(), handles: handleCount() };
    const { calls } = await startWorker({
      answer: () => cancelled,
      partitions: () => Promise.resolve([0, 1, 2]),
    });
    await deadlines.arm(newDeadline(0, { partition: 2 }));
    await waitFor(() => calls.length === 1, { what: 'the fire' });
    await worker?.stop();
    await waitFor(async () => (await connectionCount()) === before.connections, {
      what: 'connections to close',
    });
    await waitFor(() => handleCount() <= before.handles, { what: 'handles to close' });
    expect(await connectionCount()).toBe(before.connections);
  });

  test.each(['was lost', 'was never there'])('takes no longer than 7 s when Redis %s', async (how) => {
    const proxy = await startProxy({ target: { host: '127.0.0.1', port: redis.port } });
    if (how === 'was never there') await proxy.refuse();
    const { calls } = await startWorker({ answer: () => cancelled, url: proxy.urlFor(redis.url) });
    if (how === 'was lost') {
      await deadlines.arm(newDeadline(0));
      await waitFor(() => calls.length === 1, { what: 'the fire' });
      await proxy.refuse();
    }
    const startedAt = performance.now();
    await worker?.stop();
    expect(performance.now() - startedAt).toBeLessThan(7000);
    await proxy.stop();
  });
});

describe('when Redis', () => {
  test('is down at the start, jobs fire as soon as it is there', async () => {
    const proxy = await startProxy({ target: { host: '127.0.0.1', port: redis.port } });
    await proxy.refuse();
    const deadline = newDeadline(0);
    await deadlines.arm(deadline);
    const { firesOf } = await startWorker({ answer: () => cancelled, url: proxy.urlFor(redis.url) });
    await delay(300);
    await proxy.restore();
    await waitFor(() => firesOf(deadline.orderId) > 0, { what: 'the fire' });
    await worker?.stop();
    await proxy.stop();
    expect(firesOf(deadline.orderId)).toBe(1);
  });

  test('crashes and comes back, jobs that were delayed and jobs in hand end', async () => {
    const delayed = newDeadline(1000);
    const inHand = newDeadline(0);
    await deadlines.armMany([delayed, inHand]);
    let hold = true;
    const { firesOf } = await startWorker({
      answer: async () => {
        await waitFor(() => !hold, { what: 'the crash' });
        return cancelled;
      },
    });
    await waitFor(() => firesOf(inHand.orderId) === 1, { what: 'the fire' });
    await redis.kill();
    hold = false;
    await delay(500);
    await redis.restart();
    await waitFor(() => deadlines.reachable(), { what: 'redis to be back' });
    await reaches(inHand.orderId, 'completed', 15_000);
    await reaches(delayed.orderId, 'completed', 15_000);
    expect(firesOf(delayed.orderId)).toBe(1);
  });

  test('takes no writes it is asked once a second, and the worker goes on, or stops, at once', async () => {
    const refusals: number[] = [];
    const start = () => {
      const connection = connectRedis({ url: redis.url, role: 'worker', log: silent });
      return new QueueWorker({
        queueName: partitionQueueName(0),
        connection,
        ownsConnection: true,
        fire: () => Promise.resolve('cancelled'),
        onError: () => refusals.push(performance.now()),
      });
    };
    await redis.client.config('SET', 'min-replicas-to-write', 1);
    const refused = start();
    // The first is that of the check for stalled jobs.
    await waitFor(() => refusals.length > 3, { what: 'a third fetch to be refused' });
    expect((refusals.at(-1) ?? 0) - (refusals[1] ?? 0)).toBeGreaterThan(1900);
    await redis.client.config('SET', 'min-replicas-to-write', 0);
    const deadline = newDeadline(0);
    await deadlines.arm(deadline);
    await reaches(deadline.orderId, 'completed');
    expect(await refused.closeWithin(5000)).toBe(true);

    await redis.client.config('SET', 'min-replicas-to-write', 1);
    const count = refusals.length;
    const other = start();
    await waitFor(() => refusals.length > count, { what: 'a refusal' });
    const closedAt = performance.now();
    await other.closeWithin(5000);
    expect(performance.now() - closedAt).toBeLessThan(800);
    await redis.client.config('SET', 'min-replicas-to-write', 0);
  });

  test('loses everything, a rebuilt job fires', async () => {
    const deadline = newDeadline(300);
    await deadlines.arm(deadline);
    const { firesOf } = await startWorker({ answer: () => cancelled });
    await redis.client.flushall();
    expect(await deadlines.armMany([deadline])).toMatchObject({ armed: 1, failed: 0 });
    await waitFor(() => firesOf(deadline.orderId) === 1, { what: 'the fire' });
  });
});

async function connectionCount(): Promise<number> {
  return String(await redis.client.client('LIST'))
    .trim()
    .split('\n').length;
}

function handleCount(): number {
  return process.getActiveResourcesInfo().filter((name) => /TCP|Timeout/.test(name)).length;
}
