import type { Order } from '@lapse/orders';

/** An order as the contract shows it. */
export function presentOrder(order: Order): Omit<Order, 'expireAt' | 'remindAt' | 'partition'> {
  const { expireAt: _, remindAt: __, partition: ___, ...shown } = order;
  return shown;
}
