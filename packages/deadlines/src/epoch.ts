import type { RedisConnection } from '@lapse/runtime';
import type { Queue } from 'bullmq';
import { isOrderId } from './catalog.ts';
import { firesAtMs } from './inspect.ts';
import type { Deadline } from './jobs.ts';

/**
 * A key beside each partition's jobs that is written when they are armed from the rows. Where it is missing, Redis was
 * flushed, or lost, or is new: the jobs are gone with it.
 */
const epochKey = (queue: Queue): string => queue.toKey('epoch');

/** The epoch of a queue; null where it is missing. @throws what the Redis client threw */
export function readEpoch(redis: RedisConnection, queue: Queue): Promise<string | null> {
  return redis.get(epochKey(queue));
}

/**
 * The same, from a node that takes writes.
 *
 * @throws what the Redis client threw, and what Redis says where it is full, read-only, or without its replicas
 */
export async function readWritableEpoch(redis: RedisConnection, queue: Queue): Promise<string | null> {
  // In one round trip: a rebuild waits for it with a transaction open. The write changes nothing, there is no such key.
  const probe = redis.set(`${epochKey(queue)}:probe`, '', 'XX');
  const [epoch] = await Promise.all([readEpoch(redis, queue), probe]);
  return epoch;
}

/** Writes the epoch of a queue. @throws what the Redis client threw */
export async function writeEpoch(redis: RedisConnection, queue: Queue, epoch: string): Promise<void> {
  await redis.set(epochKey(queue), epoch);
}

/** Some delayed jobs of a partition, and where the next page begins; null behind the last one. */
export interface ArmedPage {
  readonly orderIds: readonly string[];
  readonly next: number | null;
}

/**
 * Reads the ids of delayed jobs, those that fire first first. Jobs whose scores are the same at the end of a page may
 * be left out.
 *
 * @param after the score to begin behind
 * @throws what the Redis client threw
 */
export async function readArmedPage(
  redis: RedisConnection,
  queue: Queue,
  after: number,
  limit: number,
): Promise<ArmedPage> {
  const entries = await redis.zrangebyscore(
    queue.toKey('delayed'),
    `(${after}`,
    '+inf',
    'WITHSCORES',
    'LIMIT',
    0,
    limit,
  );
  const ids = entries.filter((_, index) => index % 2 === 0);
  // The canary is among them.
  return { orderIds: ids.filter(isOrderId), next: ids.length === limit ? Number(entries.at(-1)) : null };
}

/** Those of the deadlines that have no delayed job. @throws what the Redis client threw */
export async function findLacking(
  redis: RedisConnection,
  queue: Queue,
  deadlines: readonly Deadline[],
): Promise<readonly Deadline[]> {
  if (deadlines.length === 0) return [];
  const scores = await redis.zmscore(queue.toKey('delayed'), ...deadlines.map(({ orderId }) => orderId));
  return deadlines.filter((_, index) => firesAtMs(scores[index]) === null);
}
