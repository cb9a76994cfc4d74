import { transaction, type Database, type Statement } from '@lapse/runtime';

const lockOrder: Statement = {
  name: 'lock_order',
  text: `
    select status, items, expire_at <= clock_timestamp() as "isDue" from orders
    where id = $1
    for update`,
};

interface LockedOrder {
  readonly status: string;
  readonly isDue: boolean;
  readonly items: readonly { readonly sku: string; readonly quantity: number }[];
}

const cancel: Statement = {
  name: 'cancel_order',
  text: `
    update orders set
      status = 'cancelled', cancel_reason = 'payment_timeout',
      cancelled_at = date_trunc('milliseconds', clock_timestamp())
    where id = $1`,
};

const release: Statement = {
  name: 'release_stock',
  text: 'update stock set held = held - $2, updated_at = clock_timestamp() where sku = $1',
};

const tell: Statement = {
  name: 'tell_of_order',
  text: `
    insert into events (order_id, type, actor, at, data)
    select id, 'order.cancelled', 'reference', cancelled_at, jsonb_build_object(
      'reason', cancel_reason, 'expireAt', expire_at,
      'latenessMs', round(extract(epoch from cancelled_at - expire_at) * 1000)
    )
    from orders where id = $1`,
};

/**
 * Cancels one order whose time is over, in a transaction of its own: locks the row, looks, cancels, puts the stock back
 * on sale, writes the event. Three round trips, because what follows the look goes out together. SKUs are locked in
 * their order: without that, orders of two SKUs deadlock.
 *
 * @throws Error where the order is not due yet, so that its queue tries again
 */
export async function cancelOrder(database: Database, id: string): Promise<void> {
  await transaction(database, async (tx) => {
    const [order] = await tx.query<LockedOrder>(lockOrder, [id]);
    if (order?.status !== 'pending_payment') return;
    if (!order.isDue) throw new Error(`order ${id} is not due yet`);
    const items = order.items.toSorted((a, b) => (a.sku < b.sku ? -1 : 1));
    await Promise.all([
      tx.query(cancel, [id]),
      ...items.map(({ sku, quantity }) => tx.query(release, [sku, quantity])),
      tx.query(tell, [id]),
    ]);
  });
}
