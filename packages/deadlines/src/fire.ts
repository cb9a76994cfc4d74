import { Batcher, Counter, Histogram, type Log, type Metrics } from '@lapse/runtime';
import { UnrecoverableError, type Job } from 'bullmq';
import { Backoff, jittered } from './backoff.ts';
import { atMostEvery, failureLogMs } from './bounded-log.ts';
import { isOrderId } from './catalog.ts';
import { delayAgain } from './delay-again.ts';

/** What came of looking at one order. */
export type ExpireAnswer =
  /** It was due and is cancelled now, `latenessMs` after its `expire_at`. */
  | { readonly answer: 'cancelled'; readonly latenessMs: number }
  /** Its time is not over by the database's clock. */
  | { readonly answer: 'not_due'; readonly remainingMs: number }
  /** It was paid or cancelled before. */
  | { readonly answer: 'settled' }
  /** Its clock is stopped; the thaw arms it again. */
  | { readonly answer: 'frozen' }
  /** A payment may still come: its providers are asked, and the order is seen to by whoever asks. */
  | { readonly answer: 'closing' }
  /** There is no such order. */
  | { readonly answer: 'unknown' }
  /** This order's own data is wrong; trying again would not help. */
  | { readonly answer: 'failed'; readonly error: Error };

/**
 * Looks at orders whose time may be over: decides by the rows and answers for each id. A rejection means that nothing
 * can be said now (the database is down): every order of the call is looked at again later.
 */
export type Expire = (orderIds: readonly string[]) => Promise<ReadonlyMap<string, ExpireAnswer>>;

/** Most orders in one call of `expire`. */
const maxBatchSize = 500;

/**
 * Calls of `expire` under way together. What fires while both are busy forms the next batch, which is company enough:
 * with a call of 5 ms and a backlog, batches of 72 and 20,700 fires a second. Waiting 2 ms for company gave batches of
 * 82 and 20,500 a second, and made every lone order 2 ms later; 4 calls together were slower, as was one.
 */
const maxConcurrentBatches = 2;

type Fired = ExpireAnswer | { readonly answer: 'again'; readonly waitMs: number };

/** What a worker does with a job that fired. */
export type Fire = (job: Job<unknown, string>, token: string | undefined) => Promise<string>;

/**
 * Fired jobs of all partitions are collected into calls of `expire`; each job then ends as its order's answer says.
 * `cancelled`, `settled`, `frozen` and `closing` complete it, `not_due` and a rejection delay it again, anything that nobody can
 * mend fails it, so that it is seen in Bull Board.
 */
export function createFire(options: { expire: Expire; log: Log; metrics: Metrics }): Fire {
  const { expire, log, metrics } = options;
  const counted = countFires(metrics);
  const backoff = new Backoff();
  const expireRejected = atMostEvery<{ err: unknown; waitMs: number }>(failureLogMs, (detail, count) => {
    log.error({ ...detail, count }, 'orders could not be expired, trying again');
  });
  const notDelayed = atMostEvery<unknown>(failureLogMs, (err, count) => {
    log.warn({ err, count }, 'jobs could not be delayed again, they come back as stalled');
  });

  const fired = new Batcher<string, Fired>({
    maxSize: maxBatchSize,
    maxConcurrent: maxConcurrentBatches,
    async run(orderIds) {
      counted.batchSizes.observe(orderIds.length);
      const tried = await backoff.try(() => expire([...new Set(orderIds)]));
      if ('result' in tried) {
        const nothing = { answer: 'failed', error: new Error('expire gave no answer') } as const;
        return orderIds.map((orderId) => tried.result.get(orderId) ?? nothing);
      }
      counted.retries.inc(orderIds.length);
      expireRejected({ err: tried.error, waitMs: tried.waitMs });
      return orderIds.map(() => ({ answer: 'again', waitMs: jittered(tried.waitMs) }));
    },
  });

  return async (job, token) => {
    // The id is all there is: a delayed job whose hash was lost still fires, without name and data.
    const orderId = job.id;
    if (!isOrderId(orderId)) {
      counted.fires.inc({ answer: 'malformed' });
      throw new UnrecoverableError(`'${orderId}' is not an order id`);
    }
    const fire = await fired.submit(orderId);
    counted.fires.inc({ answer: fire.answer });
    switch (fire.answer) {
      case 'cancelled':
        counted.lateness.observe(fire.latenessMs);
        return fire.answer;
      case 'settled':
      case 'frozen':
      case 'closing':
        return fire.answer;
      case 'not_due':
        return delayAgain(job, token, fire.remainingMs, notDelayed);
      case 'again':
        return delayAgain(job, token, fire.waitMs, notDelayed);
      case 'unknown':
        throw new UnrecoverableError('there is no such order');
      case 'failed':
        throw failure(fire.error);
    }
  };
}

/** Fails the job for good, with the message and the stack of what went wrong. */
function failure(cause: Error): UnrecoverableError {
  const error = new UnrecoverableError(cause.message);
  if (cause.stack !== undefined) error.stack = cause.stack;
  return error;
}

function countFires(metrics: Metrics) {
  const registers = [metrics];
  return {
    fires: new Counter({
      name: 'lapse_deadline_fires_total',
      help: 'Jobs that fired, by what came of it',
      labelNames: ['answer'],
      registers,
    }),
    lateness: new Histogram({
      name: 'lapse_expiry_lateness_ms',
      help: 'cancelled_at - expire_at of orders that a job cancelled',
      buckets: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000],
      registers,
    }),
    batchSizes: new Histogram({
      name: 'lapse_expiry_batch_orders',
      help: 'Orders in one call of expire',
      buckets: [1, 2, 5, 10, 20, 50, 100, 200, 500],
      registers,
    }),
    retries: new Counter({
      name: 'lapse_expiry_retries_total',
      help: 'Fired jobs that were delayed again because expiry was not possible',
      registers,
    }),
  };
}
