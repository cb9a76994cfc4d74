import { Batcher, connectRedis, countNodes, type Log, type Metrics } from '@lapse/runtime';
import { Queue } from 'bullmq';
import { askEach } from './ask-each.ts';
import { Background } from './background.ts';
import { atMostEvery, failureLogMs } from './bounded-log.ts';
import { countCalls } from './call-metrics.ts';
import { maxPartitionCount, partitionQueueName, producerSettings } from './catalog.ts';
import {
  findLacking,
  readArmedPage,
  readEpoch,
  readWritableEpoch,
  writeEpoch,
  type ArmedPage,
} from './epoch.ts';
import { countJobs, holdsJobs, inspectJob, type Depths, type JobView } from './inspect.ts';
import { addJobs, asError, checkOrderId, removeJob, type Armed, type Deadline } from './jobs.ts';
import { placeJobs } from './place.ts';
import { createReminders, type Reminders } from './reminders.ts';

/** How long a caller waits for Redis, ms. A checkout is answered this much later at most when Redis is silent. */
const defaultWaitMs = 25;

/** Most calls under way at a time, in equal parts for the partitions; more are refused. About 10 MB. */
const maxPending = 10_000;

/** Most arms in one round trip. 200 take Redis about 6 ms, and the first of them waits for the last. */
const armBatchSize = 200;

/** Most jobs of a partition that `armMany` and `disarmMany` take in one go. */
const pageSize = 500;

/** Pages of a partition that are under way together: while Redis takes one, the next is written. */
const pagesTogether = 2;

/** How long `stop` waits for what is under way, ms. */
const stopWaitMs = 2000;

/**
 * `armed`: the job is in Redis. `deferred`: Redis did not answer within the wait; it goes on by itself. `failed`: it was
 * counted and logged, and the sweeper will expire the order instead.
 */
export type ArmOutcome = 'armed' | 'deferred' | 'failed';

/** Which job: the order's id and the partition stored on its row. */
export type JobAddress = Pick<Deadline, 'orderId' | 'partition'>;

/** What became of many deadlines. */
interface ManyArmed {
  readonly armed: number;
  readonly failed: number;
  /** The partitions of those that failed: their node is away, or takes no writes. */
  readonly failedPartitions: ReadonlySet<number>;
}

/** The producer's side of the timer. Nothing here waits for Redis longer than it says, and Redis may be lost any time. */
export interface Deadlines extends Reminders {
  /** Adds the job of a new order. Waits at most 25 ms. Never rejects. */
  arm(deadline: Deadline): Promise<ArmOutcome>;
  /**
   * Makes many jobs be as the deadlines say, in pages, waiting for all of them: rebuild and thaw. Jobs at the right
   * instant stay, others are added, moved or replaced. Never rejects; `failed` ones are counted and logged.
   */
  armMany(deadlines: readonly Deadline[]): Promise<ManyArmed>;
  /**
   * Removes the job of an order that was paid or cancelled, and that of its next reminder where it has one, best effort: a
   * job that fires all the same finds the order settled. Waits at most 25 ms. Never rejects.
   */
  disarm(job: JobAddress & { readonly remindAt?: Date | null }): Promise<void>;
  /**
   * Removes many jobs, in pages, waiting for all of them: those that no pending order stands behind. A job that a worker
   * has in hand stays, and is counted as neither. Never rejects; `failed` ones are counted and logged.
   */
  disarmMany(jobs: readonly JobAddress[]): Promise<{ disarmed: number; failed: number }>;
  /**
   * Moves the job of an extended order; adds it where it is missing, replaces a kept finished one. A job that a worker
   * has in hand stays, and is delayed again by the worker. Waits at most 25 ms. Never rejects.
   */
  rearm(deadline: Deadline): Promise<ArmOutcome>;
  /**
   * The job behind a deadline, null where there is none.
   *
   * @throws what the Redis client threw: at once while Redis is down, after 500 ms where it is silent
   */
  inspect(job: JobAddress): Promise<JobView | null>;
  /** The queue of a partition, for Bull Board. @throws RangeError for a partition outside 0 to 63 */
  queue(partition: number): Queue;
  /**
   * Counts jobs by state, with commands that take the same time for any number of jobs. A partition whose node does not
   * answer is left out.
   *
   * @throws as `inspect`, where none answers
   */
  depths(partitions: readonly number[]): Promise<ReadonlyMap<number, Depths>>;
  /**
   * Those of the 64 partitions that hold jobs still to fire, used or not: four commands for each. A partition whose node
   * does not answer is left out.
   *
   * @throws as `inspect`, where none answers
   */
  occupiedPartitions(): Promise<readonly number[]>;
  /**
   * The epoch of each partition: what `markEpoch` wrote last; null where Redis has lost it, and the jobs with it. A
   * partition whose node does not answer is left out.
   *
   * @param options.writableOnly leaves out those, too, whose node answers but takes no writes now. Default false
   * @throws as `inspect`, where none is left
   */
  epochs(
    partitions: readonly number[],
    options?: { writableOnly?: boolean },
  ): Promise<ReadonlyMap<number, string | null>>;
  /** Marks partitions as armed from the rows, but for those whose node is away. @throws as `epochs` */
  markEpoch(partitions: readonly number[], epoch: string): Promise<void>;
  /**
   * Reads the order ids of delayed jobs page by page, by the time they fire.
   *
   * @param page.after what the page before gave as `next`; 0 for the first
   * @throws as `inspect`
   */
  armedPage(partition: number, page: { after: number; limit: number }): Promise<ArmedPage>;
  /** Those of the deadlines that have no delayed job, as far as their nodes answer. @throws as `epochs` */
  lacking(deadlines: readonly Deadline[]): Promise<readonly Deadline[]>;
  /** Whether Redis answers within 500 ms; of a cluster, any of its nodes. */
  reachable(): Promise<boolean>;
  /** What is wrong with Redis, in a few words: `unreachable`, `1 of 3 nodes unreachable`; undefined while it is well. */
  problem(): Promise<string | undefined>;
  /** Waits up to 2 s for what is under way, then disconnects. Every call after it fails. */
  stop(): Promise<void>;
}

interface Partition {
  readonly queue: Queue;
  readonly arms: Batcher<Deadline, 'armed'>;
}

/**
 * Connects the producer's side. All partitions share one connection.
 *
 * @param options.armWaitMs how long `arm`, `rearm` and `disarm` wait for Redis, ms. Default 25
 */
export function createDeadlines(options: {
  redisUrl: string;
  log: Log;
  metrics: Metrics;
  armWaitMs?: number;
}): Deadlines {
  const { redisUrl, log, metrics, armWaitMs = defaultWaitMs } = options;
  const redis = connectRedis({ url: redisUrl, role: 'producer', log });
  const background = new Background({ waitMs: armWaitMs, maxPending });
  const partitions = new Map<number, Partition>();
  const counted = countCalls(metrics, () => background.pendingCount);
  const reminders = createReminders({ redis, background, log, metrics });

  const armFailed = atMostEvery<unknown>(failureLogMs, (err, count) => {
    log.warn({ err, count }, 'deadlines were not armed');
  });
  const disarmFailed = atMostEvery<unknown>(failureLogMs, (err, count) => {
    log.warn({ err, count }, 'deadlines were not disarmed');
  });

  const partitionOf = (partition: number): Partition => {
    const known = partitions.get(partition);
    if (known !== undefined) return known;
    const queue = new Queue(partitionQueueName(partition), { connection: redis, ...producerSettings });
    // The connection logs its own loss; without a listener an error event would be thrown.
    queue.on('error', () => undefined);
    const arms = new Batcher<Deadline, 'armed'>({
      run: (deadlines) => addJobs(queue, deadlines),
      maxSize: armBatchSize,
      maxConcurrent: 2,
    });
    partitions.set(partition, { queue, arms });
    return { queue, arms };
  };

  const armInBackground = async (partition: number, work: () => Promise<void>): Promise<ArmOutcome> => {
    const outcome = await background.run(
      partition,
      async () => {
        await work();
        counted.armed.inc();
      },
      (error) => {
        counted.armFailures.inc();
        armFailed(error);
      },
    );
    if (outcome === 'deferred') counted.armsDeferred.inc();
    return outcome === 'done' ? 'armed' : outcome;
  };

  const placePage = async (partition: number, page: readonly Deadline[]): Promise<readonly Armed[]> => {
    try {
      return await placeJobs(redis, partitionOf(partition).queue, page);
    } catch (error) {
      return page.map(() => asError(error));
    }
  };

  return {
    ...reminders.calls,

    arm: (deadline) =>
      armInBackground(deadline.partition, async () => {
        checkOrderId(deadline.orderId);
        await partitionOf(deadline.partition).arms.submit(deadline);
      }),

    rearm: (deadline) =>
      armInBackground(deadline.partition, async () => {
        const [placed] = await placeJobs(redis, partitionOf(deadline.partition).queue, [deadline]);
        if (placed instanceof Error) throw placed;
      }),

    async armMany(deadlines) {
      let armed = 0;
      let failed = 0;
      const failedPartitions = new Set<number>();
      await inPages(deadlines, async (partition, page) => {
        for (const placed of await placePage(partition, page)) {
          if (placed === 'armed') armed += 1;
          else {
            failed += 1;
            failedPartitions.add(partition);
            armFailed(placed);
          }
        }
      });
      counted.armed.inc(armed);
      counted.armFailures.inc(failed);
      return { armed, failed, failedPartitions };
    },

    async disarm({ orderId, partition, remindAt = null }) {
      const disarming = background.run(
        partition,
        async () => {
          await removeJob(partitionOf(partition).queue, orderId);
          counted.disarmed.inc();
        },
        (error) => {
          counted.disarmFailures.inc();
          disarmFailed(error);
        },
      );
      await Promise.all([disarming, remindAt === null ? undefined : reminders.calls.disarmReminder(orderId)]);
    },

    async disarmMany(jobs) {
      let disarmed = 0;
      let failed = 0;
      await inPages(jobs, async (partition, page) => {
        const removals = await Promise.allSettled(
          page.map(async ({ orderId }) => removeJob(partitionOf(partition).queue, orderId)),
        );
        for (const removal of removals) {
          if (removal.status === 'rejected') {
            failed += 1;
            disarmFailed(removal.reason);
          } else if (removal.value === 'removed') disarmed += 1;
        }
      });
      counted.disarmed.inc(disarmed);
      counted.disarmFailures.inc(failed);
      return { disarmed, failed };
    },

    inspect: async ({ orderId, partition }) => inspectJob(redis, partitionOf(partition).queue, orderId),

    queue: (partition) => partitionOf(partition).queue,

    depths: (numbers) => askEach(numbers, (partition) => countJobs(partitionOf(partition).queue)),

    async occupiedPartitions() {
      const all = Array.from({ length: maxPartitionCount }, (_, partition) => partition);
      const holding = await askEach(all, (partition) => holdsJobs(redis, partition));
      return all.filter((partition) => holding.get(partition) === true);
    },

    epochs(numbers, { writableOnly = false } = {}) {
      const read = writableOnly ? readWritableEpoch : readEpoch;
      return askEach(numbers, (partition) => read(redis, partitionOf(partition).queue));
    },

    async markEpoch(numbers, epoch) {
      await askEach(numbers, (partition) => writeEpoch(redis, partitionOf(partition).queue, epoch));
    },

    armedPage: (partition, { after, limit }) =>
      readArmedPage(redis, partitionOf(partition).queue, after, limit),

    async lacking(deadlines) {
      const byPartition = Map.groupBy(deadlines, ({ partition }) => partition);
      const found = await askEach([...byPartition.keys()], (partition) =>
        findLacking(redis, partitionOf(partition).queue, byPartition.get(partition) ?? []),
      );
      return [...found.values()].flat();
    },

    async reachable() {
      return (await countNodes(redis)).answering > 0;
    },

    async problem() {
      const { answering, all } = await countNodes(redis);
      if (answering === 0) return 'unreachable';
      return answering < all ? `${all - answering} of ${all} nodes unreachable` : undefined;
    },

    async stop() {
      const left = await background.close(stopWaitMs);
      if (left > 0) log.warn({ left }, 'calls to redis were given up');
      await Promise.all([...[...partitions.values()].map(({ queue }) => queue.close()), reminders.close()]);
      redis.disconnect();
    },
  };
}

/** Does what belongs to each partition in pages, a few at a time, all partitions together. */
async function inPages<Job extends JobAddress>(
  jobs: readonly Job[],
  work: (partition: number, page: readonly Job[]) => Promise<void>,
): Promise<void> {
  await Promise.all(
    [...Map.groupBy(jobs, ({ partition }) => partition)].map(async ([partition, all]) => {
      let next = 0;
      const lane = async (): Promise<void> => {
        while (next < all.length) {
          const page = all.slice(next, next + pageSize);
          next += pageSize;
          await work(partition, page);
        }
      };
      await Promise.all(Array.from({ length: pagesTogether }, lane));
    }),
  );
}
