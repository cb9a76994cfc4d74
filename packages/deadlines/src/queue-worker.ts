import { setTimeout as delay } from 'node:timers/promises';
import type { RedisConnection } from '@lapse/runtime';
import { Worker, type Job, type JobJson, type WorkerOptions } from 'bullmq';
import { workerSettings } from './catalog.ts';
import type { Fire } from './fire.ts';

/** The BullMQ worker of one queue; it counts what tells whether it lives. */
export class QueueWorker extends Worker<unknown, string> {
  readonly #ownConnection: RedisConnection | undefined;
  readonly #closing = new AbortController();
  #fetchCount = 0;
  #jobCount = 0;
  #inHand = 0;

  /**
   * @param options.connection for its commands; for waiting it makes one of its own
   * @param options.ownsConnection whether the connection ends with it
   * @param options.settings instead of those that all workers share
   */
  constructor(options: {
    queueName: string;
    connection: RedisConnection;
    ownsConnection: boolean;
    fire: Fire;
    onError: (error: Error) => void;
    settings?: Pick<WorkerOptions, 'concurrency' | 'removeOnComplete'>;
  }) {
    const { queueName, connection, ownsConnection, fire, onError, settings } = options;
    super(queueName, fire, { connection, ...workerSettings, ...settings });
    this.#ownConnection = ownsConnection ? connection : undefined;
    this.on('error', onError);
    this.on('closing', () => this.#closing.abort());
  }

  /** Answers of Redis to its fetches. An idle worker fetches every 10 s at least: BullMQ waits no longer for a job. */
  get fetchCount(): number {
    return this.#fetchCount;
  }

  /** Jobs it fetched. */
  get jobCount(): number {
    return this.#jobCount;
  }

  /** Whether as many jobs are looked at as may be, so that it has no reason to fetch. */
  get isFull(): boolean {
    return this.#inHand >= this.concurrency;
  }

  // BullMQ waits only after errors of the connection. Where Redis answers but takes no writes (it is full, read-only, or
  // without its replicas), a worker asked it 15,900 times a second and took 68 % of a core.
  protected override async moveToActive(token: string, name?: string): Promise<Job<unknown, string>> {
    try {
      return await super.moveToActive(token, name);
    } catch (error) {
      const { signal } = this.#closing;
      await delay(workerSettings.runRetryDelay, undefined, { signal }).catch(() => undefined);
      throw error;
    }
  }

  // The one place all fetches pass, those that come with the end of another job too. Its `drained` and `active` events
  // would not do: an idle worker emits neither.
  protected override nextJobFromJobData(
    jobData?: JobJson,
    jobId?: string,
    token?: string,
  ): Promise<Job<unknown, string>> {
    this.#fetchCount += 1;
    if (jobData !== undefined) this.#jobCount += 1;
    return super.nextJobFromJobData(jobData, jobId, token);
  }

  protected override async callProcessJob(
    job: Job<unknown, string>,
    token: string,
    signal?: AbortSignal,
  ): Promise<string> {
    this.#inHand += 1;
    try {
      return await super.callProcessJob(job, token, signal);
    } finally {
      this.#inHand -= 1;
    }
  }

  /**
   * Stops fetching and finishes the jobs in hand. Where that takes too long (without Redis it takes for ever, and a
   * second `close(true)` only returns the first one's promise), timers and connections are let go of all the same.
   *
   * @returns whether it closed in time
   */
  async closeWithin(maxMs: number): Promise<boolean> {
    const closed = this.close().catch(() => undefined);
    const inTime = await settlesWithin(closed, maxMs);
    if (!inTime) {
      const abandoned = Promise.all([this.lockManager.close(), this.getBackend().close(true)]).catch(
        () => undefined,
      );
      await settlesWithin(abandoned, 1000);
    }
    this.#ownConnection?.disconnect();
    return inTime;
  }
}

async function settlesWithin(promise: Promise<unknown>, maxMs: number): Promise<boolean> {
  const timeout = new AbortController();
  const settled = await Promise.race([
    promise.then(() => true),
    delay(maxMs, false, { signal: timeout.signal }).catch(() => false),
  ]);
  timeout.abort();
  return settled;
}
