import { randomUUID } from 'node:crypto';
import { waitFor } from '@lapse/devstack';
import type { Metrics } from '@lapse/runtime';
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { eventStreamLength, partitionQueueName } from './catalog.ts';
import type { Deadlines } from './deadlines.ts';
import type { Deadline } from './jobs.ts';
import { connectedDeadlines, metric, newDeadline, startTestRedis, type TestRedis } from './testing.ts';

let redis: TestRedis;
let deadlines: Deadlines;
let metrics: Metrics;
beforeAll(async () => {
  redis = await startTestRedis();
  ({ deadlines, metrics } = await connectedDeadlines(redis.url));
});
afterAll(async () => {
  await deadlines.stop();
  await redis.stop();
});
beforeEach(async () => {
  await redis.client.flushall();
});

const minuteMs = 60_000;
const later = ({ expireAt }: Deadline, ms: number): Date => new Date(expireAt.getTime() + ms);
const near = (date: Date | null | undefined, expected: Date): void => {
  expect(Math.abs((date?.getTime() ?? 0) - expected.getTime())).toBeLessThanOrEqual(5);
};

describe('arming', () => {
  test('an armed deadline is a delayed job that fires at the instant it expires', async () => {
    const deadline = newDeadline(30 * minuteMs);
    expect(await deadlines.arm(deadline)).toBe('armed');
    expect(await deadlines.inspect(deadline)).toEqual({ state: 'delayed', firesAt: deadline.expireAt });
  });

  test('a job has no data and no option but its delay, and fits the compact form of a default Redis', async () => {
    await redis.client.config('SET', 'hash-max-listpack-value', 64);
    const deadline = newDeadline(90 * 24 * 60 * minuteMs);
    await deadlines.arm(deadline);
    const key = deadlines.queue(0).toKey(deadline.orderId);
    expect(await redis.client.hgetall(key)).toEqual({
      name: 'expire',
      data: '{}',
      opts: JSON.stringify({ delay: 7_776_000_000 }),
      timestamp: String(deadline.createdAt.getTime()),
      delay: '7776000000',
      priority: '0',
    });
    expect(await redis.client.object('ENCODING', key)).toBe('listpack');
  });

  test('a pending deadline takes less than 460 bytes', async () => {
    const many = Array.from({ length: 20_000 }, () => newDeadline(30 * minuteMs, { partition: 12 }));
    await deadlines.armMany(many.slice(0, 1000));
    const before = await usedBytes();
    await deadlines.armMany(many.slice(1000));
    expect(((await usedBytes()) - before) / 19_000).toBeLessThan(460);
  });

  test('arming twice leaves one job, at the first instant', async () => {
    const deadline = newDeadline(minuteMs);
    await deadlines.arm(deadline);
    expect(await deadlines.arm({ ...deadline, expireAt: later(deadline, minuteMs) })).toBe('armed');
    expect(await deadlines.depths([0])).toEqual(new Map([[0, depths({ delayed: 1 })]]));
    expect(await deadlines.inspect(deadline)).toEqual({ state: 'delayed', firesAt: deadline.expireAt });
  });

  test('deadlines that are armed together all arrive, each in its partition', async () => {
    const all = Array.from({ length: 1200 }, (_, index) => newDeadline(minuteMs, { partition: index % 3 }));
    expect(new Set(await Promise.all(all.map((deadline) => deadlines.arm(deadline))))).toEqual(
      new Set(['armed']),
    );
    const counts = await deadlines.depths([0, 1, 2]);
    expect([...counts.values()].map(({ delayed }) => delayed)).toEqual([400, 400, 400]);
  });

  test('one that cannot be armed does not take the others along', async () => {
    const good = newDeadline(minuteMs);
    const outcomes = await Promise.all([
      deadlines.arm(newDeadline(minuteMs, { orderId: 'meta' })),
      deadlines.arm(good),
      deadlines.arm(newDeadline(minuteMs, { partition: 64 })),
      deadlines.arm(newDeadline(minuteMs, { orderId: '17' })),
    ]);
    expect(outcomes).toEqual(['failed', 'armed', 'failed', 'failed']);
    expect(await deadlines.inspect(good)).toMatchObject({ state: 'delayed' });
  });

  test('one that Redis refuses is counted alone, the others of its batch are armed', async () => {
    const [broken, good] = [newDeadline(minuteMs), newDeadline(minuteMs)];
    // A key of another type under the job's name makes its script fail.
    await redis.client.set(deadlines.queue(0).toKey(broken.orderId), 'not a hash');
    const armed = await metric(metrics, 'lapse_deadlines_armed_total');
    const failed = await metric(metrics, 'lapse_deadline_arm_failures_total');
    expect(await Promise.all([deadlines.arm(broken), deadlines.arm(good)])).toEqual(['failed', 'armed']);
    expect(await metric(metrics, 'lapse_deadlines_armed_total')).toBe(armed + 1);
    expect(await metric(metrics, 'lapse_deadline_arm_failures_total')).toBe(failed + 1);
  });

  test('a deadline in the past is at once ready for a worker', async () => {
    const deadline = newDeadline(-1000);
    await deadlines.arm(deadline);
    expect(await deadlines.inspect(deadline)).toEqual({ state: 'waiting', firesAt: null });
  });

  test('the event stream stays short, also after Redis lost everything', async () => {
    for (let round = 0; round < 3; round += 1) {
      await redis.client.flushall();
      await deadlines.armMany(Array.from({ length: 2000 }, () => newDeadline(minuteMs)));
      expect(await redis.client.xlen(deadlines.queue(0).toKey('events'))).toBeLessThan(2 * eventStreamLength);
    }
  });
});

describe('arming many', () => {
  test('adds what is missing, moves what is elsewhere and leaves what is in place', async () => {
    const [inPlace, elsewhere, missing] = [
      newDeadline(minuteMs),
      newDeadline(minuteMs),
      newDeadline(minuteMs),
    ];
    await deadlines.arm(inPlace);
    await deadlines.arm({ ...elsewhere, expireAt: later(elsewhere, minuteMs) });
    const all = [inPlace, elsewhere, missing];
    expect(await deadlines.armMany(all)).toMatchObject({ armed: 3, failed: 0 });
    for (const deadline of all) near((await deadlines.inspect(deadline))?.firesAt, deadline.expireAt);
    expect((await deadlines.depths([0])).get(0)).toEqual(depths({ delayed: 3 }));
  });

  test('goes through pages and partitions, and says how many failed', async () => {
    const all = Array.from({ length: 1300 }, (_, index) => newDeadline(minuteMs, { partition: index % 2 }));
    const wrong = [newDeadline(minuteMs, { orderId: 'x' }), newDeadline(minuteMs, { partition: -1 })];
    expect(await deadlines.armMany([...all, ...wrong])).toEqual({
      armed: 1300,
      failed: 2,
      failedPartitions: new Set([0, -1]),
    });
    const counts = await deadlines.depths([0, 1]);
    expect([...counts.values()].map(({ delayed }) => delayed)).toEqual([650, 650]);
  });

  test('an empty list is armed already', async () => {
    expect(await deadlines.armMany([])).toEqual({ armed: 0, failed: 0, failedPartitions: new Set() });
  });
});

describe('disarming', () => {
  test('removes the job without a trace', async () => {
    const deadline = newDeadline(minuteMs);
    await deadlines.arm(deadline);
    await deadlines.disarm(deadline);
    expect(await deadlines.inspect(deadline)).toBeNull();
    expect(await redis.client.exists(deadlines.queue(0).toKey(deadline.orderId))).toBe(0);
  });

  test('a job that never was, and a partition that cannot be, are no trouble', async () => {
    await expect(deadlines.disarm({ orderId: randomUUID(), partition: 0 })).resolves.toBeUndefined();
    await expect(deadlines.disarm({ orderId: randomUUID(), partition: 99 })).resolves.toBeUndefined();
  });
});

describe('disarming many', () => {
  test('removes more than a partition may have under way, however many partitions there are', async () => {
    const partitions = Array.from({ length: 20 }, (_, partition) => partition);
    await Promise.all(partitions.map((partition) => deadlines.disarm({ orderId: randomUUID(), partition })));
    const all = Array.from({ length: 1300 }, () => newDeadline(minuteMs));
    await deadlines.armMany(all);
    expect(await deadlines.disarmMany(all)).toEqual({ disarmed: 1300, failed: 0 });
    expect((await deadlines.depths([0])).get(0)).toEqual(depths({}));
  });

  test('says how many failed, and takes the others away', async () => {
    const deadline = newDeadline(minuteMs);
    await deadlines.arm(deadline);
    expect(await deadlines.disarmMany([{ orderId: randomUUID(), partition: 99 }, deadline])).toEqual({
      disarmed: 1,
      failed: 1,
    });
    expect(await deadlines.inspect(deadline)).toBeNull();
  });
});

describe('rearming', () => {
  test.each([
    ['later', minuteMs],
    ['sooner', -30_000],
  ])('moves the job %s', async (_, byMs) => {
    const deadline = newDeadline(minuteMs);
    await deadlines.arm(deadline);
    const moved = { ...deadline, expireAt: later(deadline, byMs) };
    expect(await deadlines.rearm(moved)).toBe('armed');
    near((await deadlines.inspect(deadline))?.firesAt, moved.expireAt);
    expect((await deadlines.depths([0])).get(0)).toEqual(depths({ delayed: 1 }));
  });

  test('adds a job that was lost', async () => {
    const deadline = newDeadline(minuteMs);
    expect(await deadlines.rearm(deadline)).toBe('armed');
    expect(await deadlines.inspect(deadline)).toEqual({ state: 'delayed', firesAt: deadline.expireAt });
  });

  test.each(['failed', 'completed'] as const)(
    'replaces a kept %s job, which would swallow the add',
    async (state) => {
      const deadline = newDeadline(0);
      await deadlines.arm(deadline);
      await finish(deadline, state);
      expect((await deadlines.inspect(deadline))?.state).toBe(state);
      const moved = { ...deadline, expireAt: later(deadline, minuteMs) };
      await deadlines.arm(moved);
      expect((await deadlines.inspect(deadline))?.state).toBe(state);

      expect(await deadlines.rearm(moved)).toBe('armed');
      expect(await deadlines.inspect(deadline)).toEqual({ state: 'delayed', firesAt: moved.expireAt });
      expect((await deadlines.depths([0])).get(0)).toEqual(depths({ delayed: 1 }));
    },
  );

  test('moves a job that waits for a worker back into the future', async () => {
    const deadline = newDeadline(-1000);
    await deadlines.arm(deadline);
    const moved = { ...deadline, expireAt: new Date(Date.now() + minuteMs) };
    await deadlines.rearm(moved);
    expect(await deadlines.inspect(deadline)).toEqual({ state: 'delayed', firesAt: moved.expireAt });
  });

  test('leaves a job that a worker has in hand', async () => {
    const deadline = newDeadline(0);
    await deadlines.arm(deadline);
    const connection = new Redis(redis.url, { maxRetriesPerRequest: null });
    const worker = new Worker(partitionQueueName(0), null, { connection, autorun: false });
    const job = await waitFor(() => worker.getNextJob('token'), { what: 'the job' });
    expect(await deadlines.inspect(deadline)).toEqual({ state: 'active', firesAt: null });
    await deadlines.rearm({ ...deadline, expireAt: later(deadline, minuteMs) });
    expect(await deadlines.inspect(deadline)).toEqual({ state: 'active', firesAt: null });
    await job.moveToCompleted('settled', 'token', false);
    await worker.close();
    connection.disconnect();
  });
});

test('a job whose hash was lost is still seen', async () => {
  const deadline = newDeadline(minuteMs);
  await deadlines.arm(deadline);
  await redis.client.del(deadlines.queue(0).toKey(deadline.orderId));
  expect(await deadlines.inspect(deadline)).toEqual({ state: 'delayed', firesAt: deadline.expireAt });
  expect(await deadlines.rearm({ ...deadline, expireAt: later(deadline, minuteMs) })).toBe('armed');
  near((await deadlines.inspect(deadline))?.firesAt, later(deadline, minuteMs));
  expect((await deadlines.depths([0])).get(0)).toEqual(depths({ delayed: 1 }));
});

test('stopped deadlines refuse everything and leave no connection', async () => {
  const before = await connectionCount();
  const other = await connectedDeadlines(redis.url);
  await Promise.all(
    [0, 1, 2, 3].map((partition) => other.deadlines.arm(newDeadline(minuteMs, { partition }))),
  );
  expect(await connectionCount()).toBe(before + 1);
  await other.deadlines.stop();
  expect(await other.deadlines.arm(newDeadline(minuteMs))).toBe('failed');
  expect(await other.deadlines.reachable()).toBe(false);
  await waitFor(async () => (await connectionCount()) === before, { what: 'its connection to be gone' });
});

async function usedBytes(): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await redis.client.info('memory'))?.[1]);
}

async function connectionCount(): Promise<number> {
  return String(await redis.client.client('LIST'))
    .trim()
    .split('\n').length;
}

function depths(counts: Partial<Record<string, number>>) {
  return { delayed: 0, waiting: 0, active: 0, completed: 0, failed: 0, ...counts };
}

/** Lets a plain worker of BullMQ end one job. */
async function finish({ orderId, partition }: Deadline, as: 'failed' | 'completed'): Promise<void> {
  const connection = new Redis(redis.url, { maxRetriesPerRequest: null });
  const process = (): Promise<string> =>
    as === 'failed' ? Promise.reject(new Error('broken')) : Promise.resolve('settled');
  const worker = new Worker(partitionQueueName(partition), process, { connection });
  await waitFor(async () => (await deadlines.inspect({ orderId, partition }))?.state === as, { what: as });
  await worker.close();
  connection.disconnect();
}
