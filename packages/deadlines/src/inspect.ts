import type { RedisConnection } from '@lapse/runtime';
import { QueueKeys, type Queue } from 'bullmq';
import { canaryId, partitionQueueName } from './catalog.ts';

/** Where a job is. `waiting`: its time is over and no worker has it yet. */
export type JobState = 'delayed' | 'waiting' | 'active' | 'completed' | 'failed';

/** A job as it is right now. */
export interface JobView {
  readonly state: JobState;
  /** When a delayed job fires; null in any other state. */
  readonly firesAt: Date | null;
}

/** Jobs of one partition by state. */
export type Depths = Readonly<Record<JobState, number>>;

/**
 * Looks at one job, with commands that are cheap however many jobs there are (BullMQ's `getState` searches lists).
 *
 * @returns null when there is no such job
 * @throws what the Redis client threw
 */
export async function inspectJob(
  redis: RedisConnection,
  queue: Queue,
  orderId: string,
): Promise<JobView | null> {
  const replies = await redis
    .pipeline()
    .zscore(queue.toKey('delayed'), orderId)
    .zscore(queue.toKey('completed'), orderId)
    .zscore(queue.toKey('failed'), orderId)
    .exists(queue.toKey(orderId))
    .exists(`${queue.toKey(orderId)}:lock`)
    .exec();
  const [delayed, completed, failed, exists, locked] = (replies ?? []).map(([error, reply]) => {
    if (error) throw error;
    return reply;
  });
  const firesAt = firesAtMs(delayed);
  if (firesAt !== null) return { state: 'delayed', firesAt: new Date(firesAt) };
  if (typeof completed === 'string') return { state: 'completed', firesAt: null };
  if (typeof failed === 'string') return { state: 'failed', firesAt: null };
  if (locked === 1) return { state: 'active', firesAt: null };
  return exists === 1 ? { state: 'waiting', firesAt: null } : null;
}

/** The delayed set's score is the instant in ms, times 4096, plus a sequence number. */
export function firesAtMs(score: unknown): number | null {
  return typeof score === 'string' ? Math.floor(Number(score) / 4096) : null;
}

/**
 * Counts jobs by state. Redis knows the sizes: it takes the same time for any number of jobs.
 *
 * @throws what the Redis client threw
 */
export async function countJobs(queue: Queue): Promise<Depths> {
  const [delayed = 0, waiting = 0, active = 0, completed = 0, failed = 0] = await queue
    .getBackend()
    .getCounts(['delayed', 'waiting', 'active', 'completed', 'failed']);
  return { delayed, waiting, active, completed, failed };
}

const keys = new QueueKeys();

/**
 * Whether a partition holds jobs of orders that are still to fire: delayed, waiting or in hand. The canary is none.
 *
 * @throws what the Redis client threw
 */
export async function holdsJobs(redis: RedisConnection, partition: number): Promise<boolean> {
  const key = (type: string): string => keys.toKey(partitionQueueName(partition), type);
  const [delayed, waiting, active, canary] = await Promise.all([
    redis.zcard(key('delayed')),
    redis.llen(key('wait')),
    redis.llen(key('active')),
    redis.exists(key(canaryId(partition))),
  ]);
  return delayed + waiting + active > canary;
}
