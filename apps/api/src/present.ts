import type { Order } from '@lapse/orders';

/** An order as the contract shows it. */
export function presentOrder(order: Order): Omit<Order, 'expireAt' | 'partition'> {
  const { expireAt: _, partition: __, ...shown } = order;
  return shown;
}
