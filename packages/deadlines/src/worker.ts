import {
  connectRedis,
  Counter,
  periodic,
  type Log,
  type Metrics,
  type RedisConnection,
  type Service,
} from '@lapse/runtime';
import { atMostEvery, failureLogMs } from './bounded-log.ts';
import { Canaries, isCanary } from './canary.ts';
import { concurrencyFor, isPartition, partitionQueueName } from './catalog.ts';
import type { Clock } from './clock.ts';
import { createFire, type Expire } from './fire.ts';
import { QueueWorker } from './queue-worker.ts';
import { Watch, type WatchLimits } from './watch.ts';

/** How soon a read of the partitions that failed is tried again, and the clock is heeded, ms. */
const partitionsRetryMs = 1000;

/** How long jobs in hand may take when a worker stops, ms. What is longer comes back as stalled, on another worker. */
const closeMs = 5000;

/**
 * A worker is replaced after 30 s. Idle, it fetches every 10 s; BullMQ notices a dead connection by itself after 16 s at
 * most; and a canary that a killed worker had in hand comes back after 11 s. One whose jobs do not end is replaced 3
 * minutes later: a job ends when the database answered, or after 10 s without an answer.
 */
const watchDefaults = { everyMs: 5000, silentLooks: 6, fullLooks: 36, maxReplacements: 3 } as const;

interface Consumer {
  worker: QueueWorker;
  readonly watch: Watch;
}

/**
 * Consumes the jobs of all partitions: one BullMQ worker each, one connection for commands, and one more per partition
 * that waits for its next job. BullMQ's workers have stopped for good without a word (a Redis Cluster that failed over;
 * bullmq #4585, #4479), so each is watched, and replaced when it is silent though Redis answers.
 *
 * @param options.expire looks at the orders of fired jobs
 * @param options.partitions the partitions to consume: 0 to N-1, and every other that a pending row still names or that
 *   holds jobs
 * @param options.partitionsEveryMs how often they are read again, ms. Default 10,000
 * @param options.clock while it is wrong nothing is consumed
 * @param options.giveUp ends the process: replacing a worker did not help
 * @param options.watch how often a worker is looked at (`everyMs`, default 5,000), how many looks without a sign of
 *   life it has (default 6), how many with jobs that do not end (default 36), and how many replacements in a row
 *   (default 3)
 */
export function deadlineWorker(options: {
  redisUrl: string;
  log: Log;
  metrics: Metrics;
  expire: Expire;
  partitions: () => Promise<readonly number[]>;
  partitionsEveryMs?: number;
  clock: Pick<Clock, 'isRight'>;
  giveUp: () => void;
  watch?: Partial<WatchLimits & { readonly everyMs: number }>;
}): Service {
  const { redisUrl, log, metrics, expire, partitions, partitionsEveryMs = 10_000, clock } = options;
  const { everyMs: lookEveryMs, ...limits } = { ...watchDefaults, ...options.watch };
  const fire = createFire({ expire, log, metrics });
  const replacements = new Counter({
    name: 'lapse_worker_replacements_total',
    help: 'Queue workers that were silent and had to be replaced',
    labelNames: ['partition'],
    registers: [metrics],
  });
  const consumers = new Map<number, Consumer>();
  const closings = new Set<Promise<void>>();
  let readAgainAt = 0;
  let isEnding = false;

  // One for all partitions: they lose Redis together.
  const onError = atMostEvery<{ err: Error; partition: number }>(failureLogMs, (detail, count) => {
    log.warn({ ...detail, count }, 'queue worker has trouble');
  });
  const notLooked = atMostEvery<unknown>(failureLogMs, (err, count) => {
    log.warn({ err, count }, 'queue workers cannot be watched');
  });
  const queueIsPaused = atMostEvery<number>(failureLogMs, (partition, count) => {
    log.error({ partition, count }, 'queue is paused, its jobs do not fire');
  });

  const newWorker = (
    partition: number,
    canaries: Canaries,
    connection: { readonly connection: RedisConnection; readonly ownsConnection: boolean },
  ): QueueWorker =>
    new QueueWorker({
      ...connection,
      queueName: partitionQueueName(partition),
      onError: (err) => onError({ err, partition }),
      async fire(job, token) {
        return isCanary(partition, job) ? canaries.consume(partition, job) : fire(job, token);
      },
    });

  const close = async (closing: ReadonlyMap<number, QueueWorker>): Promise<void> => {
    const closed = await Promise.all(
      [...closing].map(async ([partition, worker]) => ({
        partition,
        inTime: await worker.closeWithin(closeMs),
      })),
    );
    const abandoned = closed.filter(({ inTime }) => !inTime).map(({ partition }) => partition);
    if (abandoned.length > 0) log.warn({ partitions: abandoned }, 'queue workers did not close in time');
  };

  /** Stops consuming the partitions that are not wanted. */
  const leave = async (wanted: ReadonlySet<number>, canaries: Canaries): Promise<void> => {
    const left = [...consumers].filter(([partition]) => !wanted.has(partition));
    for (const [partition] of left) consumers.delete(partition);
    await close(new Map(left.map(([partition, { worker }]) => [partition, worker])));
    // Nobody may come after us to consume it. Who still consumes the partition arms the next one.
    await Promise.allSettled(left.map(([partition]) => canaries.remove(partition)));
  };

  const consume = async (connection: RedisConnection, canaries: Canaries): Promise<void> => {
    if (!clock.isRight()) {
      // Closed, not paused: a paused worker ends its wait for a job by fetching one more time, early.
      readAgainAt = 0;
      return leave(new Set(), canaries);
    }
    if (performance.now() < readAgainAt) return;
    const wanted = new Set(await partitions());
    readAgainAt = performance.now() + partitionsEveryMs;
    const concurrency = concurrencyFor(wanted.size);
    for (const partition of wanted) {
      if (!isPartition(partition)) {
        // Left to the sweeper; the other partitions must not suffer.
        log.error({ partition }, 'orders name a partition that cannot be');
        continue;
      }
      const consumer = consumers.get(partition) ?? {
        worker: newWorker(partition, canaries, { connection, ownsConnection: false }),
        watch: new Watch(limits),
      };
      consumer.worker.concurrency = concurrency;
      consumers.set(partition, consumer);
    }
    await leave(wanted, canaries);
  };

  /** Puts a new worker in its place, with connections of its own: the shared one may be what is broken. */
  const replace = (partition: number, consumer: Consumer, canaries: Canaries): void => {
    const silent = consumer.worker;
    const connection = connectRedis({ url: redisUrl, role: 'worker', log });
    consumer.worker = newWorker(partition, canaries, { connection, ownsConnection: true });
    consumer.worker.concurrency = silent.concurrency;
    consumer.watch.replaced();
    replacements.inc({ partition });
    const closing = close(new Map([[partition, silent]])).finally(() => closings.delete(closing));
    closings.add(closing);
  };

  const look = async (partition: number, consumer: Consumer, canaries: Canaries): Promise<void> => {
    const { watch, worker } = consumer;
    let canary: string | null;
    try {
      canary = await canaries.look(partition);
    } catch (error) {
      watch.excuse();
      if (canaries.isConnected) notLooked(error);
      return;
    }
    const { fetchCount, jobCount, isFull } = worker;
    const judged = watch.judge({ fetchCount, jobCount, isFull, canary });
    if (watch.hasMissedCanary) canaries.miss(partition);
    if (judged.verdict === 'well' || judged.verdict === 'silent') return;
    const { verdict, reason } = judged;
    if (reason === 'no_canary' && (await canaries.isQueuePaused(partition))) {
      watch.excuse();
      queueIsPaused(partition);
      return;
    }
    // It may have been left meanwhile.
    if (isEnding || consumers.get(partition) !== consumer) return;
    const silentMs = limits.silentLooks * lookEveryMs;
    const detail = { partition, reason, silentMs, replacements: watch.replacements };
    if (verdict === 'give_up') {
      isEnding = true;
      log.fatal(detail, 'queue worker stays silent, giving up');
      options.giveUp();
      return;
    }
    log.error(detail, 'queue worker was silent and is replaced');
    replace(partition, consumer, canaries);
    await canaries.remove(partition);
  };

  let stopAll: (() => Promise<void>) | undefined;
  return {
    name: 'deadline worker',
    async start() {
      const connection = connectRedis({ url: redisUrl, role: 'worker', log });
      const canaryConnection = connectRedis({ url: redisUrl, role: 'producer', log });
      const canaries = new Canaries({ connection: canaryConnection, metrics });
      const reading = periodic({
        name: 'partitions',
        everyMs: Math.min(partitionsRetryMs, partitionsEveryMs),
        log,
        task: () => consume(connection, canaries),
      });
      const watching = periodic({
        name: 'worker watch',
        everyMs: lookEveryMs,
        log,
        async task() {
          await Promise.all(
            [...consumers].map(([partition, consumer]) => look(partition, consumer, canaries)),
          );
        },
      });
      await reading.start();
      await watching.start();
      stopAll = async () => {
        isEnding = true;
        const watchingStopped = watching.stop();
        // A read that is under way may wait for the database, and may still start a worker.
        const readingStopped = reading.stop();
        await leave(new Set(), canaries);
        await Promise.all([readingStopped, watchingStopped]);
        await leave(new Set(), canaries);
        await Promise.all(closings);
        await canaries.close();
        canaryConnection.disconnect();
        connection.disconnect();
      };
    },
    async stop() {
      await stopAll?.();
    },
  };
}
