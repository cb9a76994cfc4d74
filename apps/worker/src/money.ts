import { setTimeout as delay } from 'node:timers/promises';
import type { Orders } from '@lapse/orders';
import { Gauge, type Metrics } from '@lapse/runtime';

/** How long whoever asks for the metrics waits for these, ms. Scrapers give up after 10 s. */
const patienceMs = 1000;

/**
 * Registers how much money is on its way, and how many attempts wait for a word of their provider, read from the rows when
 * somebody asks for the metrics. Without an answer of the database they are left out.
 */
export function watchMoney(options: {
  orders: Pick<Orders, 'openRefunds' | 'attemptAlarms'>;
  metrics: Metrics;
}): readonly Gauge[] {
  const { orders, metrics } = options;
  const gauge = (
    { name, help, label }: { name: string; help: string; label: string },
    read: () => Promise<Readonly<Record<string, number>>>,
  ): Gauge =>
    new Gauge({
      name,
      help,
      labelNames: [label],
      registers: [metrics],
      async collect() {
        const patience = delay(patienceMs, undefined, { ref: false });
        const counts = await Promise.race([read(), patience]).catch(() => undefined);
        this.reset();
        for (const [value, count] of Object.entries(counts ?? {})) this.set({ [label]: value }, count);
      },
    });
  return [
    gauge(
      { name: 'lapse_refunds_open', help: 'Refunds that are due, or sent and not confirmed', label: 'state' },
      async () => {
        const { due, sent } = await orders.openRefunds();
        return { due, sent };
      },
    ),
    gauge(
      {
        name: 'lapse_attempts_held',
        help: 'Payment attempts without an answer of the provider for 5 minutes, or processing for longer than by policy',
        label: 'verdict',
      },
      async () => {
        const { unknown, processing } = await orders.attemptAlarms();
        return { unknown, processing };
      },
    ),
  ];
}
