import calculateSlot from 'cluster-key-slot';
import type { QueueOptions, WorkerOptions } from 'bullmq';

/**
 * Everything about the job behind a deadline. Its id is the order id, its `timestamp` + `delay` the instant to look at
 * the order; it has no data, because the row is the truth.
 *
 * Measured on Redis 7.0 with 300,000 pending deadlines: 392 B each. `add` would also write the job id, the timestamp and
 * the attempts into the job's options, which makes them longer than `hash-max-listpack-value` (64 by default) and the
 * job a hash table: 832 B. So jobs are added with `delay` as their only option, see `jobs.ts`.
 */
export const jobName = 'expire';

/** The job behind an order's next payment reminder. Its id is the order id, as that of its deadline's. */
export const reminderJobName = 'remind';

/**
 * The queue of all reminders. No partition: what compares those with pending orders would take its jobs for orphans. One is
 * enough, because nobody waits for a reminder to the millisecond, and while its node is away the sweep sends them.
 */
export const reminderQueueName = '{lapse-reminders}';

/**
 * The canary of a partition: a job that nobody waits for. That it fires, and how late, says whether the orders' jobs
 * would. See `canary.ts`.
 */
export const canaryName = 'canary';

/** How long after it is armed a canary fires, ms. */
export const canaryDelayMs = 1000;

/** Most partitions there can be. A partition is one BullMQ queue, which in Redis Cluster lives on one node. */
export const maxPartitionCount = 64;

/** Most jobs of all partitions one process looks at together. From about 1,000 on the renewal of locks starves. */
const processConcurrency = 1000;

/** Most jobs of one partition a process looks at together. 500 was enough for 15,000 fires a second. */
const queueConcurrency = 500;

/** How many jobs of each partition a process that consumes this many partitions may have in hand. */
export function concurrencyFor(partitionCount: number): number {
  const share = Math.floor(processConcurrency / Math.max(1, partitionCount));
  return Math.max(16, Math.min(queueConcurrency, share));
}

/**
 * Settings all workers share. A killed worker's jobs come back after at most lockDuration + stalledInterval = 11 s,
 * which only works if every worker has the same numbers.
 */
export const workerSettings = {
  lockDuration: 8000,
  stalledInterval: 3000,
  // Expiring twice is harmless, failing is not: a job that stalled often belongs to workers that were killed often.
  maxStalledCount: 1_000_000,
  // How soon a worker fetches again after a connection error; 15 s by default.
  runRetryDelay: 1000,
  // Kept for Bull Board, per partition; ages in seconds. Only the next finished job removes what is too old.
  removeOnComplete: { count: 1000, age: 24 * 60 * 60 },
  removeOnFail: { count: 1000, age: 30 * 24 * 60 * 60 },
} as const satisfies Partial<WorkerOptions>;

/** Entries of a queue's event stream. Only Bull Board and curious people read it. 10,000 by default. */
export const eventStreamLength = 500;

/**
 * Settings of a queue on the producer's side. BullMQ's own start-up waits for Redis and asks for its version: every add
 * of a process that started while Redis was down would hang until it is back, and one INFO that times out makes each
 * later call of that queue reject for ever. Without both, a call fails at once while Redis is down. (On a worker
 * `skipVersionCheck` would round the wait for the next job up to whole seconds; a producer does not wait for jobs.)
 */
export const producerSettings = {
  skipWaitingForReady: true,
  skipVersionCheck: true,
  skipMetasUpdate: true,
} as const satisfies Partial<QueueOptions>;

const orderIdPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** Whether a job id can be an order id: a UUID in lower case, as PostgreSQL writes it. */
export function isOrderId(id: string | undefined): id is string {
  return id !== undefined && orderIdPattern.test(id);
}

/** Id of a partition's canary, for example `canary-7`: no order id, so it never comes to `expire`. */
export function canaryId(partition: number): string {
  return `${canaryName}-${partition}`;
}

/** Whether there can be such a partition: 0 to 63. */
export function isPartition(partition: number): boolean {
  return Number.isInteger(partition) && partition >= 0 && partition < maxPartitionCount;
}

const queueNames = new Map<number, string>();

/**
 * Name of a partition's queue, for example `{lapse-0bm}`. The braces make it a hash tag, so that all keys of one queue
 * share a slot of Redis Cluster; the letters at its end put that slot where the partition belongs: partition p takes
 * the cell with the bits of p reversed, out of 64 equal cells of the slots (van der Corput). So the first N partitions
 * are spread evenly for every N, and stay where they are when N grows. The plain names `{lapse-0…7}` fell 2/4/2 on
 * three nodes. The names are stable for ever: jobs are stored under them.
 *
 * @param partition 0 to 63
 * @throws RangeError for any other number
 */
export function partitionQueueName(partition: number): string {
  const known = queueNames.get(partition);
  if (known !== undefined) return known;
  if (!isPartition(partition)) {
    throw new RangeError(`a partition is 0 to ${maxPartitionCount - 1}, not ${partition}`);
  }
  const name = findQueueName(partition, reverseBits(partition));
  queueNames.set(partition, name);
  return name;
}

const slotCount = 16_384;
const letters = 'abcdefghijklmnopqrstuvwxyz'.split('');

function findQueueName(partition: number, cell: number): string {
  let suffixes = [''];
  for (;;) {
    suffixes = suffixes.flatMap((suffix) => letters.map((letter) => suffix + letter));
    for (const suffix of suffixes) {
      const name = `{lapse-${partition}${suffix}}`;
      if (Math.floor((calculateSlot(name) * maxPartitionCount) / slotCount) === cell) return name;
    }
  }
}

/** 0b000001 becomes 0b100000. */
function reverseBits(partition: number): number {
  return Number.parseInt(partition.toString(2).padStart(6, '0').split('').toReversed().join(''), 2);
}
