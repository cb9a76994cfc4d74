import { randomUUID } from 'node:crypto';
import { waitFor } from '@lapse/devstack';
import { type Metrics, type Service } from '@lapse/runtime';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { reminderQueueName } from './catalog.ts';
import type { Deadlines } from './deadlines.ts';
import { reminderWorker, type RemindAnswer } from './reminder-worker.ts';
import {
  connectedDeadlines,
  metric,
  newDeadline,
  silent,
  startTestRedis,
  type TestRedis,
} from './testing.ts';

let redis: TestRedis;
let deadlines: Deadlines;
let metrics: Metrics;
let workers: Service[] = [];
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
afterEach(async () => {
  await Promise.all(workers.map((worker) => worker.stop()));
  workers = [];
});

const minuteMs = 60_000;
const none: RemindAnswer = { answer: 'none' };

/** Starts a worker whose orders are answered one by one; returns the calls it made. */
async function startWorker(
  answer: (orderId: string) => RemindAnswer | Promise<RemindAnswer>,
): Promise<{ firesOf: (orderId: string) => number; calls: readonly (readonly string[])[] }> {
  const calls: string[][] = [];
  const worker = reminderWorker({
    redisUrl: redis.url,
    log: silent,
    async remind(orderIds) {
      calls.push([...orderIds]);
      return new Map(
        await Promise.all(orderIds.map(async (orderId) => [orderId, await answer(orderId)] as const)),
      );
    },
  });
  workers.push(worker);
  await worker.start();
  return { calls, firesOf: (orderId) => calls.flat().filter((id) => id === orderId).length };
}

const aReminder = (inMs: number) => ({ orderId: randomUUID(), remindAt: new Date(Date.now() + inMs) });

const isGone = (orderId: string) =>
  waitFor(async () => (await deadlines.inspectReminder(orderId)) === null, { what: 'the job to be gone' });

async function firesAt(orderId: string): Promise<number | undefined> {
  return (await deadlines.inspectReminder(orderId))?.firesAt?.getTime();
}

describe('arming', () => {
  test('adds a job for the instant, in a queue that is no partition', async () => {
    const reminder = aReminder(minuteMs);
    await deadlines.armReminder(reminder);
    expect(await firesAt(reminder.orderId)).toBe(reminder.remindAt.getTime());
    expect(await deadlines.occupiedPartitions()).toEqual([]);
    const job = await deadlines.reminderQueue().getJob(reminder.orderId);
    expect(job).toMatchObject({ name: 'remind', queueName: reminderQueueName, data: {} });
  });

  test('leaves the job of the deadline of the same order alone', async () => {
    const deadline = newDeadline(2 * minuteMs);
    await deadlines.arm(deadline);
    await deadlines.armReminder({ orderId: deadline.orderId, remindAt: new Date(Date.now() + minuteMs) });
    await deadlines.disarmReminder(deadline.orderId);
    expect(await deadlines.inspectReminder(deadline.orderId)).toBeNull();
    expect(await deadlines.inspect(deadline)).toMatchObject({ state: 'delayed', firesAt: deadline.expireAt });
  });

  test('disarms it with the deadline', async () => {
    const remindAt = new Date(Date.now() + minuteMs);
    const deadline = newDeadline(2 * minuteMs);
    await deadlines.arm(deadline);
    await deadlines.armReminder({ orderId: deadline.orderId, remindAt });
    await deadlines.disarm({ ...deadline, remindAt });
    expect(await deadlines.inspectReminder(deadline.orderId)).toBeNull();
    expect(await deadlines.inspect(deadline)).toBeNull();
  });

  test('moves the job that is there, and keeps one that is right', async () => {
    const { orderId, remindAt } = aReminder(minuteMs);
    await deadlines.armReminder({ orderId, remindAt });
    await deadlines.armReminder({ orderId, remindAt });
    expect(await firesAt(orderId)).toBe(remindAt.getTime());
    const later = new Date(remindAt.getTime() + minuteMs);
    await deadlines.armReminder({ orderId, remindAt: later });
    // Moving is exact to a few ms: BullMQ counts from now.
    expect(Math.abs(((await firesAt(orderId)) ?? 0) - later.getTime())).toBeLessThan(1000);
    expect(await deadlines.reminderQueue().getDelayedCount()).toBe(1);
  });

  test('of many waits for all of them', async () => {
    const many = Array.from({ length: 1000 }, () => aReminder(minuteMs));
    await deadlines.armReminders(many);
    expect(await deadlines.reminderQueue().getDelayedCount()).toBe(1000);
    await deadlines.disarmReminder(many[0]?.orderId ?? '');
    expect(await deadlines.reminderQueue().getDelayedCount()).toBe(999);
  });

  test('of what is no order fails, is counted, and does not reject', async () => {
    const before = await metric(metrics, 'lapse_reminder_call_failures_total');
    await deadlines.armReminder({ orderId: 'meta', remindAt: new Date() });
    await deadlines.armReminders([{ orderId: 'meta', remindAt: new Date() }, aReminder(minuteMs)]);
    expect(await metric(metrics, 'lapse_reminder_call_failures_total')).toBe(before + 2);
    expect(await deadlines.reminderQueue().getDelayedCount()).toBe(1);
  });
});

describe('a fired job', () => {
  test('comes to remind at its time, not before, and is removed', async () => {
    const { orderId, remindAt } = aReminder(300);
    let firedAt = 0;
    const { firesOf } = await startWorker(() => {
      firedAt = Date.now();
      return { answer: 'reminded', nextMs: null };
    });
    await deadlines.armReminder({ orderId, remindAt });
    await waitFor(() => firedAt > 0, { what: 'the job to fire' });
    await isGone(orderId);
    expect(firedAt).toBeGreaterThanOrEqual(remindAt.getTime());
    expect(firesOf(orderId)).toBe(1);
    expect(await deadlines.reminderQueue().getJobCounts('completed', 'failed')).toEqual({
      completed: 0,
      failed: 0,
    });
  });

  test.each<[string, RemindAnswer]>([
    ['has a next reminder', { answer: 'reminded', nextMs: 100 }],
    ['is not due', { answer: 'not_due', remainingMs: 100 }],
  ])('whose order %s fires again', async (_, first) => {
    const { orderId, remindAt } = aReminder(0);
    let isFirst = true;
    const { firesOf } = await startWorker(() => {
      const answer = isFirst ? first : none;
      isFirst = false;
      return answer;
    });
    await deadlines.armReminder({ orderId, remindAt });
    await waitFor(() => firesOf(orderId) === 2, { what: 'the job to fire again' });
    await isGone(orderId);
    expect(firesOf(orderId)).toBe(2);
  });

  test('of an order without an answer ends, one that is no order fails and is seen', async () => {
    const { orderId, remindAt } = aReminder(0);
    const worker = reminderWorker({
      redisUrl: redis.url,
      log: silent,
      remind: () => Promise.resolve(new Map()),
    });
    workers.push(worker);
    await worker.start();
    await deadlines.armReminder({ orderId, remindAt });
    await deadlines.reminderQueue().add('remind', {}, { jobId: 'no-order' });
    await isGone(orderId);
    const failed = async (): Promise<number> => deadlines.reminderQueue().getFailedCount();
    expect(await waitFor(failed, { what: 'the other job to fail' })).toBe(1);
  });

  test('waits while nothing can be said, and never fails for that', async () => {
    const reminders = Array.from({ length: 20 }, () => aReminder(0));
    let isAway = true;
    const { calls, firesOf } = await startWorker(() => {
      if (isAway) throw new Error('the database is away');
      return none;
    });
    await deadlines.armReminders(reminders);
    await waitFor(() => calls.flat().length >= 40, { what: 'the jobs to be tried again', timeoutMs: 15_000 });
    expect(await deadlines.reminderQueue().getFailedCount()).toBe(0);
    isAway = false;
    await Promise.all(
      reminders.map(({ orderId }) =>
        waitFor(async () => (await deadlines.inspectReminder(orderId)) === null, {
          what: 'the job to end',
          timeoutMs: 15_000,
        }),
      ),
    );
    expect(reminders.every(({ orderId }) => firesOf(orderId) > 1)).toBe(true);
  });

  test('comes with those that fire together in one call', async () => {
    const reminders = Array.from({ length: 100 }, () => aReminder(0));
    await deadlines.armReminders(reminders);
    const { calls } = await startWorker(() => none);
    await waitFor(() => calls.flat().length >= 100, { what: 'all to fire' });
    expect(new Set(calls.flat()).size).toBe(100);
    expect(calls.length).toBeLessThan(50);
  });

  test('goes to one of two workers', async () => {
    const [one, other] = [await startWorker(() => none), await startWorker(() => none)];
    const reminders = Array.from({ length: 50 }, () => aReminder(50));
    await deadlines.armReminders(reminders);
    await waitFor(
      async () => (await deadlines.reminderQueue().getJobCountByTypes('delayed', 'wait', 'active')) === 0,
      {
        what: 'all to fire',
      },
    );
    expect(reminders.map(({ orderId }) => one.firesOf(orderId) + other.firesOf(orderId))).toEqual(
      reminders.map(() => 1),
    );
  });
});

test('a worker that starts without Redis fires when it is there, and stops without it', async () => {
  const { orderId, remindAt } = aReminder(0);
  await deadlines.armReminder({ orderId, remindAt });
  await redis.kill();
  const { firesOf } = await startWorker(() => none);
  await redis.restart();
  await waitFor(() => firesOf(orderId) === 1, { what: 'the job to fire', timeoutMs: 15_000 });
  await redis.kill();
  await workers[0]?.stop();
  workers = [];
  // Nothing is thrown at whoever arms meanwhile.
  const failedBefore = await metric(metrics, 'lapse_reminder_call_failures_total');
  await deadlines.armReminder(aReminder(minuteMs));
  await deadlines.armReminders([aReminder(minuteMs)]);
  await deadlines.disarmReminder(orderId);
  expect(await metric(metrics, 'lapse_reminder_call_failures_total')).toBe(failedBefore + 3);
  await redis.restart();
  await waitFor(() => deadlines.reachable(), { what: 'redis to be back' });
});
