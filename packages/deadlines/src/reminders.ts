import { Batcher, Counter, type Log, type Metrics, type RedisConnection } from '@lapse/runtime';
import { Queue } from 'bullmq';
import type { Background } from './background.ts';
import { atMostEvery, failureLogMs } from './bounded-log.ts';
import { maxPartitionCount, producerSettings, reminderJobName, reminderQueueName } from './catalog.ts';
import { inspectJob, type JobView } from './inspect.ts';
import { checkOrderId, removeJob, type TimedJob } from './jobs.ts';
import { placeJobs } from './place.ts';

/** The next payment reminder of an order. */
export interface Reminder {
  readonly orderId: string;
  /** When its job fires. In the past: at once. */
  readonly remindAt: Date;
}

/**
 * The producer's side of payment reminders. Each order has one job at most, that of its next reminder. None of these calls
 * ever rejects: what fails is counted and logged, and the sweep sends the reminder instead.
 */
export interface Reminders {
  /** Makes an order's job fire at this instant, whether there was one or not. Waits at most 25 ms. */
  armReminder(reminder: Reminder): Promise<void>;
  /** The same for many, waiting for all of them. */
  armReminders(reminders: readonly Reminder[]): Promise<void>;
  /** Removes the job of an order that was paid or cancelled. Waits at most 25 ms. */
  disarmReminder(orderId: string): Promise<void>;
  /** The queue of the reminders, for Bull Board. */
  reminderQueue(): Queue;
  /** The job of an order's next reminder, null where there is none. @throws what the Redis client threw */
  inspectReminder(orderId: string): Promise<JobView | null>;
}

/** Most jobs in one round trip, as for deadlines. */
const batchSize = 200;

/** Reminders have a share of the calls under way as if they were one more partition. */
const lane = maxPartitionCount;

/** Arms and disarms on a connection that others use, too. */
export function createReminders(options: {
  redis: RedisConnection;
  background: Background;
  log: Log;
  metrics: Metrics;
}): { readonly calls: Reminders; readonly close: () => Promise<void> } {
  const { redis, background, log, metrics } = options;
  const failures = new Counter({
    name: 'lapse_reminder_call_failures_total',
    help: 'Payment reminders whose job could not be put into Redis, moved or removed',
    registers: [metrics],
  });
  const notCalled = atMostEvery<unknown>(failureLogMs, (err, count) => {
    log.warn({ err, count }, 'reminders were not armed or disarmed');
  });
  const failed = (error: unknown): void => {
    failures.inc();
    notCalled(error);
  };

  let opened: Queue | undefined;
  const queue = (): Queue => {
    if (opened === undefined) {
      opened = new Queue(reminderQueueName, { connection: redis, ...producerSettings });
      // The connection logs its own loss; without a listener an error event would be thrown.
      opened.on('error', () => undefined);
    }
    return opened;
  };
  const arms = new Batcher<TimedJob, 'armed'>({
    run: (jobs) => placeJobs(redis, queue(), jobs, reminderJobName),
    maxSize: batchSize,
    maxConcurrent: 2,
  });
  const arm = async ({ orderId, remindAt }: Reminder): Promise<void> => {
    checkOrderId(orderId);
    await arms.submit({ orderId, createdAt: new Date(), expireAt: remindAt });
  };

  const calls: Reminders = {
    async armReminder(reminder) {
      await background.run(lane, () => arm(reminder), failed);
    },
    async armReminders(reminders) {
      const armed = await Promise.allSettled(reminders.map(arm));
      for (const one of armed) if (one.status === 'rejected') failed(one.reason);
    },
    async disarmReminder(orderId) {
      const remove = async (): Promise<void> => void (await removeJob(queue(), orderId));
      await background.run(lane, remove, failed);
    },
    reminderQueue: queue,
    inspectReminder: async (orderId) => inspectJob(redis, queue(), orderId),
  };
  return { calls, close: async () => opened?.close() };
}
