import type { Statement, Transaction } from '@lapse/runtime';
import { allocate, type StockLevel } from './allocate.ts';
import type { OrderItem } from './order.ts';

const lockItsStock: Statement = {
  name: 'shelf_lock',
  text: `
    with wanted as materialized (
      select id, items from orders where id = any ($1::uuid[])
    ), touched as materialized (
      select items from wanted
      union all
      select items from orders where id = any ($2::uuid[])
    ), locked as materialized (
      select s.sku, s.on_hand as "onHand", s.held from stock s
      where s.sku in (
        select item.sku from touched cross join lateral jsonb_to_recordset(touched.items) as item (sku text)
      )
      order by s.sku
      for no key update
    )
    select
      (select coalesce(jsonb_agg(wanted), '[]') from wanted) as orders,
      (select coalesce(jsonb_agg(locked), '[]') from locked) as stock`,
};

interface Reinstatable {
  readonly orders: readonly { readonly id: string; readonly items: readonly OrderItem[] }[];
  readonly stock: readonly ({ readonly sku: string } & StockLevel)[];
}

/** The stock of orders that may be reinstated. */
export interface Shelf {
  /** Takes what an order needs, if all of it is there. */
  take(orderId: string): boolean;
}

/**
 * Locks the stock of cancelled orders that may be reinstated.
 *
 * @param beside orders that are paid together with them. Their stock is locked, too, at once: locked later it would be out
 *   of the order of all locks
 */
export async function lockShelf(
  tx: Transaction,
  orderIds: readonly string[],
  beside: readonly string[] = [],
): Promise<Shelf> {
  if (orderIds.length === 0) return { take: () => false };
  const [found] = await tx.query<Reinstatable>(lockItsStock, [orderIds, beside]);
  if (found === undefined) throw new Error('stock could not be read');
  const itemsById = new Map(found.orders.map(({ id, items }) => [id, items]));
  const levels = new Map(found.stock.map(({ sku, ...level }): [string, StockLevel] => [sku, level]));
  return {
    take(orderId) {
      const items = itemsById.get(orderId) ?? [];
      const { allocations, holds } = allocate(levels, [items]);
      if (items.length === 0 || allocations[0]?.outcome !== 'held') return false;
      for (const [sku, quantity] of holds) {
        const { onHand = null, held = 0 } = levels.get(sku) ?? {};
        levels.set(sku, { onHand, held: held + quantity });
      }
      return true;
    },
  };
}
