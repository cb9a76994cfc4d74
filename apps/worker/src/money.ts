import type { Orders } from '@lapse/orders';
import { Gauge, type Metrics } from '@lapse/runtime';
import { asked, rowGauge } from './row-gauge.ts';

/**
 * Registers how much money is on its way, how much waits for a person, and how many attempts wait for a word of their
 * provider, read from the rows when somebody asks for the metrics. Without an answer of the database they are left out.
 */
export function watchMoney(options: {
  orders: Pick<Orders, 'openRefunds' | 'attemptAlarms' | 'workSize'>;
  metrics: Metrics;
}): void {
  const { orders, metrics } = options;
  const refunds = asked(() => orders.openRefunds());
  const work = asked(() => orders.workSize());
  const alarms = asked(() => orders.attemptAlarms());

  /** One figure for each value of a label. */
  const counts = <Label extends string>(
    { name, help, label }: { name: string; help: string; label: string },
    values: readonly Label[],
    read: () => Promise<Readonly<Record<Label, number>> | undefined>,
  ): void => {
    // It registers itself.
    void new Gauge({
      name,
      help,
      labelNames: [label],
      registers: [metrics],
      async collect() {
        const found = await read();
        this.reset();
        if (found !== undefined) for (const value of values) this.set({ [label]: value }, found[value]);
      },
    });
  };

  counts(
    { name: 'lapse_refunds_open', help: 'Refunds that are due, or sent and not confirmed', label: 'state' },
    ['due', 'sent'],
    refunds,
  );
  rowGauge({
    name: 'lapse_oldest_refund_ms',
    help: 'How long ago the oldest refund fell due that is not at its end',
    metrics,
    read: async () => (await refunds())?.oldestMs,
  });
  rowGauge({
    name: 'lapse_work_list_payments',
    help: 'Payments that a person must decide about, counted up to 10,000',
    metrics,
    read: async () => (await work())?.count,
  });
  rowGauge({
    name: 'lapse_oldest_work_ms',
    help: 'How long the payment that waits longest has been on the work list',
    metrics,
    read: async () => (await work())?.oldestMs,
  });
  counts(
    {
      name: 'lapse_attempts_held',
      help: 'Payment attempts without an answer of the provider for 5 minutes, or processing for longer than by policy',
      label: 'verdict',
    },
    ['unknown', 'processing'],
    alarms,
  );
}
