import { setTimeout as delay } from 'node:timers/promises';
import type { Orders } from '@lapse/orders';
import { Counter, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How often old orders are looked for, ms. */
const ordersEveryMs = 60_000;

/** Most orders looked at in one step. */
const orderCount = 500;

/** How often all idempotency keys are walked through, ms: so much longer than 24 hours an old one is kept at most. */
const keysEveryMs = 60 * 60 * 1000;

/** Blocks of the table of keys in one step, about 50 keys each. */
const keyBlockCount = 128;

/** After a step comes a pause of so many times as long, and of this at least, ms. Removing is never urgent. */
const pauseFactor = 4;
const minPauseMs = 50;

const dayMs = 24 * 60 * 60 * 1000;

/** How often all old orders are looked at again, for those that had to stay the last time, ms. */
const roundEveryMs = dayMs;

/**
 * Removes what has served its time: idempotency keys after 24 hours, settled orders after `retentionDays`. Runs in every
 * worker; of orders one batch at a time is removed by all of them together.
 *
 * @param options.retentionDays 0: orders are kept for ever
 */
export function janitor(options: {
  orders: Orders;
  log: Log;
  metrics: Metrics;
  retentionDays: number;
}): Service {
  const { orders, log, metrics, retentionDays } = options;
  const removedOrders = new Counter({
    name: 'lapse_removed_orders_total',
    help: 'Settled orders that this worker removed because they were older than the retention',
    registers: [metrics],
  });

  const purgeKeys = periodic({
    name: 'janitor of keys',
    everyMs: keysEveryMs,
    log,
    async task(stopped) {
      let from = 0;
      await stepByStep(stopped, async () => {
        const { isAll } = await orders.purgeIdempotencyKeys({ from, count: keyBlockCount });
        from += keyBlockCount;
        return isAll;
      });
    },
  });

  // Kept between the runs, so that what had to stay is passed once a round, not once a minute.
  let after: string | null = null;
  let roundEndsAt = 0;
  const removeOrders = periodic({
    name: 'janitor of orders',
    everyMs: ordersEveryMs,
    log,
    async task(stopped) {
      if (performance.now() >= roundEndsAt) {
        after = null;
        roundEndsAt = performance.now() + roundEveryMs;
      }
      let removedCount = 0;
      try {
        await stepByStep(stopped, async () => {
          const olderThanMs = retentionDays * dayMs;
          const removal = await orders.removeSettled({ olderThanMs, after, limit: orderCount });
          // Another worker is at it: after the pause it may be our turn.
          if (removal.state === 'busy') return false;
          ({ after } = removal);
          removedCount += removal.removedCount;
          removedOrders.inc(removal.removedCount);
          return removal.isAll;
        });
      } finally {
        if (removedCount > 0) log.info({ orderCount: removedCount, retentionDays }, 'settled orders removed');
      }
    },
  });

  const services = retentionDays === 0 ? [purgeKeys] : [purgeKeys, removeOrders];
  return {
    name: 'janitor',
    async start() {
      for (const service of services) await service.start();
    },
    async stop() {
      await Promise.all(services.map((service) => service.stop()));
    },
  };
}

/** Does step after step until one says that it was the last, with pauses that leave the database to others. */
async function stepByStep(stopped: AbortSignal, step: () => Promise<boolean>): Promise<void> {
  while (!stopped.aborted) {
    const startedAt = performance.now();
    if (await step()) return;
    const pauseMs = Math.max(minPauseMs, (performance.now() - startedAt) * pauseFactor);
    await delay(pauseMs, undefined, { signal: stopped }).catch(() => undefined);
  }
}
