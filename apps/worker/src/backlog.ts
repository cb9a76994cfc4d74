import type { Orders } from '@lapse/orders';
import { Gauge, type Metrics } from '@lapse/runtime';

/** Registers how far expiry is behind, read from the rows when somebody asks for the metrics. */
export function watchBacklog(options: { orders: Orders; metrics: Metrics }): void {
  const { orders, metrics } = options;
  const oldest = new Gauge({
    name: 'lapse_oldest_overdue_ms',
    help: 'How long the oldest overdue pending order has been overdue',
    registers: [metrics],
  });
  const overdue = new Gauge({
    name: 'lapse_overdue_orders',
    help: 'Pending orders that are overdue, counted up to 10,000',
    registers: [metrics],
    async collect() {
      const backlog = await orders.backlog();
      overdue.set(backlog.overdueCount);
      oldest.set(backlog.oldestOverdueMs);
    },
  });
}
