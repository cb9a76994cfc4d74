import type { ExpireAnswer, Orders } from '@lapse/orders';
import { Counter, Histogram, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How often overdue orders are looked for, ms. An order waits this long for its cancellation when its job is lost. */
const sweepEveryMs = 1000;

/** Most orders in one transaction: 1,000 hold their stock rows for about 20 ms. */
const batchSize = 1000;

/** The same while a burst is drained, where every transaction less counts. */
const burstBatchSize = 2500;

/**
 * Where this many jobs fired together, more orders may be due than the queue brings one by one; or another worker sweeps
 * them, and is not to be disturbed by jobs that confirm it.
 */
const crowdSize = 48;

/** How long after such a look the next one is not taken, ms. */
const lookPauseMs = 50;

/** Expires orders, those of fired jobs and those it finds by itself. */
export interface Sweeper extends Service {
  /**
   * Expires the orders of fired jobs. A job costs Redis and the worker 50 µs, a row in a batch a third of that: where
   * many are due at once, the rows are read and cancelled in large batches, meanwhile the jobs wait, and then only
   * confirm what was done.
   */
  readonly expire: (orderIds: readonly string[]) => Promise<ReadonlyMap<string, ExpireAnswer>>;
}

/**
 * Expires overdue orders without the queue: those whose job was lost, late, or never armed. Runs in every worker; rows
 * that one has in hand are skipped by the others, so there is no leader to lose.
 */
export function sweeper(options: {
  orders: Orders;
  /** Is told every answer: those that are `closing` wait for their payment providers. */
  close: (answers: ReadonlyMap<string, ExpireAnswer>) => void;
  log: Log;
  metrics: Metrics;
}): Sweeper {
  const { orders, close, log, metrics } = options;
  const registers = [metrics];
  const cancelled = new Counter({
    name: 'lapse_sweep_cancelled_total',
    help: 'Orders that the sweeper cancelled: before their jobs came (burst), or because none did',
    labelNames: ['burst'],
    registers,
  });
  for (const burst of ['true', 'false']) cancelled.inc({ burst }, 0);
  const failed = new Counter({
    name: 'lapse_sweep_failed_total',
    help: 'Orders that the database refused to cancel; looked at again a minute later',
    registers,
  });
  const errors = new Counter({
    name: 'lapse_sweep_errors_total',
    help: 'Sweeps that failed as a whole',
    registers,
  });
  const lateness = new Histogram({
    name: 'lapse_sweep_lateness_ms',
    help: 'Time from expire_at to the cancellation by the sweeper',
    buckets: [10, 100, 500, 1000, 1500, 2000, 3000, 5000, 10_000, 60_000, 300_000],
    registers,
  });

  /** Calls that brought a crowd of fired jobs and are under way, and until when the last one counts. */
  let crowdCount = 0;
  let crowdUntil = 0;

  const sweepOnce = async (limit: number): Promise<boolean> => {
    const answers = await orders.sweep(limit, 'sweeper');
    close(answers);
    // Asked afterwards: the sweep may have been a few ms faster than the jobs of the same instant.
    const isBurst = String(crowdCount > 0 || performance.now() < crowdUntil);
    for (const [orderId, answer] of answers) {
      if (answer.answer === 'cancelled') {
        cancelled.inc({ burst: isBurst });
        lateness.observe(answer.latenessMs);
      } else if (answer.answer === 'failed') {
        failed.inc();
        log.error({ orderId, err: answer.error }, 'order could not be expired');
      }
    }
    if (answers.size > 0) log.debug({ orderCount: answers.size }, 'overdue orders swept');
    return answers.size === limit;
  };

  const stopped = new AbortController();
  /** There while more is overdue than one batch. */
  let burst: Promise<void> | undefined;
  const drain = async (): Promise<void> => {
    for (let mayBeMore = true; mayBeMore && !stopped.signal.aborted;)
      mayBeMore = await sweepOnce(burstBatchSize);
  };
  const sweep = async (): Promise<void> => {
    if (burst === undefined && !(await sweepOnce(batchSize))) return;
    burst ??= drain().finally(() => (burst = undefined));
    await burst;
  };

  let lookAgainAt = 0;
  let looking: Promise<void> | undefined;
  const lookForMore = (): void => {
    if (stopped.signal.aborted || burst !== undefined || performance.now() < lookAgainAt) return;
    lookAgainAt = Infinity;
    looking = sweep()
      // The jobs are there still, and the next sweep is a second away.
      .catch((error: unknown) => {
        errors.inc();
        log.warn({ err: error }, 'overdue orders could not be swept');
      })
      .finally(() => {
        lookAgainAt = performance.now() + lookPauseMs;
      });
  };

  const expire: Sweeper['expire'] = async (orderIds) => {
    await burst?.catch(() => undefined);
    const answers = await orders.expire(orderIds, 'worker');
    close(answers);
    return answers;
  };

  const periodically = periodic({
    name: 'sweeper',
    everyMs: sweepEveryMs,
    log,
    onError: () => errors.inc(),
    task: sweep,
  });
  return {
    ...periodically,
    async stop() {
      stopped.abort();
      await periodically.stop();
      await looking;
    },
    async expire(orderIds) {
      if (orderIds.length < crowdSize) return expire(orderIds);
      crowdCount += 1;
      try {
        const answers = await expire(orderIds);
        lookForMore();
        return answers;
      } finally {
        crowdCount -= 1;
        crowdUntil = performance.now() + sweepEveryMs;
      }
    },
  };
}
