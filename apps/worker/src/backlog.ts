import { setTimeout as delay } from 'node:timers/promises';
import type { Orders } from '@lapse/orders';
import { Gauge, type Metrics } from '@lapse/runtime';

/** How long whoever asks for the metrics waits for these, ms. Scrapers give up after 10 s. */
const patienceMs = 1000;

type Backlog = Awaited<ReturnType<Orders['backlog']>>;

/**
 * Registers how far expiry is behind, read from the rows when somebody asks for the metrics. Without an answer of the
 * database both are left out: the other metrics are never more wanted than then.
 */
export function watchBacklog(options: { orders: Pick<Orders, 'backlog'>; metrics: Metrics }): void {
  const { orders, metrics } = options;
  let asked: Promise<Backlog> | undefined;

  /** One question for both gauges, so that they tell of the same instant, and for all who ask meanwhile. */
  const read = (): Promise<Backlog | undefined> => {
    asked ??= orders.backlog().finally(() => (asked = undefined));
    return Promise.race([asked, delay(patienceMs, undefined, { ref: false })]).catch(() => undefined);
  };
  const gauge = (name: string, help: string, value: (backlog: Backlog) => number): Gauge =>
    new Gauge({
      name,
      help,
      registers: [metrics],
      async collect() {
        const backlog = await read();
        if (backlog === undefined) this.remove();
        else this.set(value(backlog));
      },
    });

  gauge(
    'lapse_oldest_overdue_ms',
    'How long the oldest overdue pending order has been overdue',
    ({ oldestOverdueMs }) => oldestOverdueMs,
  );
  gauge(
    'lapse_overdue_orders',
    'Pending orders that are overdue, counted up to 10,000',
    ({ overdueCount }) => overdueCount,
  );
}
