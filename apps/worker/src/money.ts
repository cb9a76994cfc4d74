import { setTimeout as delay } from 'node:timers/promises';
import type { Orders } from '@lapse/orders';
import { Gauge, type Metrics } from '@lapse/runtime';

/** How long whoever asks for the metrics waits for these, ms. Scrapers give up after 10 s. */
const patienceMs = 1000;

/** An order that is held for longer than this by a provider is shown to ops, ms. */
const heldForMs = 5 * 60_000;

/**
 * Registers how much money is on its way, and how many attempts wait for a word of their provider, read from the rows when
 * somebody asks for the metrics. Without an answer of the database they are left out.
 */
export function watchMoney(options: {
  orders: Pick<Orders, 'openRefunds' | 'heldAttempts'>;
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
        help: 'Payment attempts of which the provider has said for 5 minutes that it is unknown, or processing',
        label: 'verdict',
      },
      () => orders.heldAttempts(heldForMs),
    ),
  ];
}
