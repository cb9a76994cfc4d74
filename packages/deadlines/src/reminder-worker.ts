import { Batcher, connectRedis, type Log, type Service } from '@lapse/runtime';
import { UnrecoverableError } from 'bullmq';
import { Backoff, jittered } from './backoff.ts';
import { atMostEvery, failureLogMs } from './bounded-log.ts';
import { isOrderId, reminderQueueName } from './catalog.ts';
import { delayAgain } from './delay-again.ts';
import { QueueWorker } from './queue-worker.ts';

/** What came of looking whether an order's customer is to be reminded. */
export type RemindAnswer =
  /** Now; the next reminder is due in `nextMs`, null: there is none. */
  | { readonly answer: 'reminded'; readonly nextMs: number | null }
  | { readonly answer: 'not_due'; readonly remainingMs: number }
  /** There is nothing to remind of. */
  | { readonly answer: 'none' };

/**
 * Looks at orders whose reminder may be due: decides by the rows; an order without an answer has none. A rejection means
 * that nothing can be said now: every order of the call is looked at again later.
 */
export type Remind = (orderIds: readonly string[]) => Promise<ReadonlyMap<string, RemindAnswer>>;

/** Most orders in one call of `remind`, and most jobs in hand. */
const maxBatchSize = 250;

/** How long jobs in hand may take when the worker stops, ms. */
const closeMs = 2000;

/**
 * Consumes the jobs of payment reminders. A job of which nothing is left to do completes and is removed; one that was too
 * early, or has a next reminder, is delayed again. It is not watched as the partitions' workers are, and heeds no clock:
 * what it misses the sweep sends a moment later, and what fires early is found not to be due.
 */
export function reminderWorker(options: { redisUrl: string; log: Log; remind: Remind }): Service {
  const { redisUrl, log, remind } = options;
  const backoff = new Backoff();
  const rejected = atMostEvery<{ err: unknown; waitMs: number }>(failureLogMs, (detail, count) => {
    log.error({ ...detail, count }, 'reminders could not be sent, trying again');
  });
  const notDelayed = atMostEvery<unknown>(failureLogMs, (err, count) => {
    log.warn({ err, count }, 'reminder jobs could not be delayed again, they come back as stalled');
  });
  const onError = atMostEvery<Error>(failureLogMs, (err, count) => {
    log.warn({ err, count }, 'reminder worker has trouble');
  });

  /** Answers how long a job waits for its next look, ms; null: it has none. */
  const fired = new Batcher<string, number | null>({
    maxSize: maxBatchSize,
    async run(orderIds) {
      const tried = await backoff.try(() => remind([...new Set(orderIds)]));
      if ('result' in tried) return orderIds.map((orderId) => untilNextMs(tried.result.get(orderId)));
      rejected({ err: tried.error, waitMs: tried.waitMs });
      return orderIds.map(() => jittered(tried.waitMs));
    },
  });

  let worker: QueueWorker | undefined;
  return {
    name: 'reminder worker',
    start() {
      worker = new QueueWorker({
        queueName: reminderQueueName,
        connection: connectRedis({ url: redisUrl, role: 'worker', log }),
        ownsConnection: true,
        settings: { concurrency: maxBatchSize, removeOnComplete: { count: 0 } },
        onError,
        async fire(job, token) {
          const orderId = job.id;
          if (!isOrderId(orderId)) throw new UnrecoverableError(`'${orderId}' is not an order id`);
          const waitMs = await fired.submit(orderId);
          return waitMs === null ? 'done' : delayAgain(job, token, waitMs, notDelayed);
        },
      });
      return Promise.resolve();
    },
    async stop() {
      const closed = await worker?.closeWithin(closeMs);
      if (closed === false) log.warn('reminder worker did not close in time');
    },
  };
}

function untilNextMs(found: RemindAnswer | undefined): number | null {
  switch (found?.answer) {
    case 'reminded':
      return found.nextMs;
    case 'not_due':
      return found.remainingMs;
    case 'none':
    case undefined:
      return null;
  }
}
