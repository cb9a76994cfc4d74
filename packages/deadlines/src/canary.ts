import { hostname } from 'node:os';
import { Counter, Histogram, type Metrics, type RedisConnection } from '@lapse/runtime';
import { Queue, type Job, type JobJson } from 'bullmq';
import {
  canaryDelayMs,
  canaryId,
  canaryName,
  eventStreamLength,
  partitionQueueName,
  producerSettings,
} from './catalog.ts';
import { freshJob, NoReply } from './jobs.ts';

/** Redis answers, but says something that cannot be. */
class StrangeCanary extends Error {
  readonly code = 'strange_canary';

  constructor(reply: unknown) {
    super(`a canary cannot be ${JSON.stringify(reply)}`);
    this.name = 'StrangeCanary';
  }
}

/**
 * One canary lives in each partition, armed by whichever process first finds that there is none, consumed by whichever
 * worker fetches it. Every process looks at it: a canary that stays tells each of them that nobody fires in this
 * partition. A canary of each process would tell no more, because any worker may consume it, and 100 processes × 64
 * partitions would fire 1,280 a second; these are 64 in all, and looking costs one round trip per partition.
 *
 * Nothing is left to clean up: a process that dies leaves at most the one canary that the others consume.
 */
export class Canaries {
  readonly #connection: RedisConnection;
  readonly #queues = new Map<number, Queue>();
  readonly #armedBy = JSON.stringify({ armedBy: `${hostname()}:${process.pid}` });
  readonly #counted: ReturnType<typeof countCanaries>;

  /** @param options.connection a producer's: it fails instead of waiting */
  constructor(options: { connection: RedisConnection; metrics: Metrics }) {
    this.#connection = options.connection;
    this.#counted = countCanaries(options.metrics);
  }

  /** Whether there is a connection at all; it logs its own loss. */
  get isConnected(): boolean {
    return this.#connection.status === 'ready';
  }

  /**
   * Looks at the canary of a partition, and arms one where there is none.
   *
   * @returns when the one that was there was armed, as its job says; null where there was none
   * @throws what the Redis client threw; so a return means that Redis answers and takes writes
   */
  async look(partition: number): Promise<string | null> {
    const id = canaryId(partition);
    const queue = this.#queueOf(partition);
    const backend = queue.getBackend();
    const client = await backend.client;
    const pipeline = client.pipeline();
    pipeline.hgetall(queue.toKey(id));
    // Where there is one this stores nothing, but a full or read-only Redis refuses it all the same.
    await backend.addJobToTransaction(pipeline, this.#canary(id), id);
    // As in `addJobs`: BullMQ writes its own default where this is missing.
    pipeline.hset(queue.toKey('meta'), { 'opts.maxLenEvents': eventStreamLength });
    const [found, ...written] = (await pipeline.exec()) ?? [];
    if (found === undefined) throw new NoReply();
    for (const [error] of [found, ...written]) if (error) throw error;
    const armed = parseCanary(found[1]);
    // One that ended and was kept, by a worker of another version, would swallow every later one.
    if (armed?.isFinished === true) await queue.remove(id);
    return armed === null || armed.isFinished ? null : armed.armedAt;
  }

  /** Counts a canary that nobody consumed in time. */
  miss(partition: number): void {
    this.#counted.missing.inc({ partition });
  }

  /** Removes the canary, unless a worker has it in hand, so that the next look arms a new one. */
  async remove(partition: number): Promise<void> {
    await this.#queueOf(partition).remove(canaryId(partition));
  }

  /** Whether somebody paused the whole queue: then its jobs stay away, and no worker is to blame. */
  isQueuePaused(partition: number): Promise<boolean> {
    return this.#queueOf(partition).isPaused();
  }

  /** Ends a canary that fired. */
  consume(partition: number, job: Job<unknown, string>): string {
    // Said here, and not only by the one who armed it: a job whose hash was lost has no options.
    job.opts.removeOnComplete = true;
    const firesAt = job.timestamp + (job.opts.delay ?? 0);
    if (Number.isFinite(firesAt)) {
      this.#counted.lateness.observe({ partition }, Math.max(0, Date.now() - firesAt));
    }
    return canaryName;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#queues.values()].map((queue) => queue.close()));
  }

  #queueOf(partition: number): Queue {
    const known = this.#queues.get(partition);
    if (known !== undefined) return known;
    const queue = new Queue(partitionQueueName(partition), {
      connection: this.#connection,
      ...producerSettings,
    });
    // The connection logs its own loss; without a listener an error event would be thrown.
    queue.on('error', () => undefined);
    this.#queues.set(partition, queue);
    return queue;
  }

  #canary(id: string): JobJson {
    return {
      id,
      name: canaryName,
      data: this.#armedBy,
      timestamp: Date.now(),
      opts: { delay: canaryDelayMs, removeOnComplete: true, removeOnFail: true },
      ...freshJob,
    };
  }
}

/** Whether a fired job is a canary. By its id: a job whose hash was lost has no name. */
export function isCanary(partition: number, job: Job<unknown, string>): boolean {
  return job.id === canaryId(partition);
}

function parseCanary(reply: unknown): { armedAt: string; isFinished: boolean } | null {
  if (typeof reply !== 'object' || reply === null) throw new StrangeCanary(reply);
  if (Object.keys(reply).length === 0) return null;
  const armedAt = 'timestamp' in reply && typeof reply.timestamp === 'string' ? reply.timestamp : '';
  return { armedAt, isFinished: 'finishedOn' in reply };
}

function countCanaries(metrics: Metrics) {
  const registers = [metrics];
  return {
    lateness: new Histogram({
      name: 'lapse_canary_lateness_ms',
      help: 'Time from the instant a canary was due to the worker that has it',
      labelNames: ['partition'],
      buckets: [5, 10, 25, 50, 100, 250, 1000, 5000, 30_000],
      registers,
    }),
    missing: new Counter({
      name: 'lapse_canaries_missing_total',
      help: 'Canaries that no worker of the fleet consumed in time; each process counts those that it sees',
      labelNames: ['partition'],
      registers,
    }),
  };
}
