import type { Orders } from '@lapse/orders';
import type { Metrics } from '@lapse/runtime';
import { asked, rowGauge } from './row-gauge.ts';

/**
 * Registers how far expiry is behind, read from the rows when somebody asks for the metrics. Without an answer of the
 * database both are left out.
 */
export function watchBacklog(options: { orders: Pick<Orders, 'backlog'>; metrics: Metrics }): void {
  const { orders, metrics } = options;
  const backlog = asked(() => orders.backlog());
  rowGauge({
    name: 'lapse_oldest_overdue_ms',
    help: 'How long the oldest overdue pending order has been overdue; not of those that a freeze or a provider holds',
    metrics,
    read: async () => (await backlog())?.oldestOverdueMs,
  });
  rowGauge({
    name: 'lapse_overdue_orders',
    help: 'Pending orders that are overdue, counted up to 10,000; without those that a freeze or a provider holds',
    metrics,
    read: async () => (await backlog())?.overdueCount,
  });
}
