import { transaction, type Database, type Statement } from '@lapse/runtime';
import { orderColumns, toOrder, type Order, type OrderRow } from './order.ts';
import { readOrders } from './find.ts';
import { releaseHolds } from './release.ts';
import { closeAttempts } from './open-attempts.ts';

/** Somebody's wish to cancel an order. */
export interface CancelRequest {
  readonly orderId: string;
  readonly reason: 'customer' | 'merchant';
  readonly actor: string;
}

/** What became of it. `already_cancelled` changed nothing. */
export type CancelAnswer =
  | { readonly outcome: 'cancelled' | 'already_cancelled' | 'already_paid'; readonly order: Order }
  | { readonly outcome: 'order_not_found' };

const lockOrder: Statement = {
  name: 'cancel_lock_order',
  // By itself, so that the next statement sees the attempts that began while this one waited.
  text: 'select from orders where id = $1 for no key update',
};

const cancelPending: Statement = {
  name: 'cancel_order',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), cancelled as (
      update orders o set status = 'cancelled', cancel_reason = $2, cancelled_at = clock.at, closing_at = null
      from clock
      where o.id = $1 and o.status = 'pending_payment'
      returning ${orderColumns}, o.open_attempt_count
      -- Somebody wants it now: no provider is waited for, its attempts are closed afterwards.
    ), ${closeAttempts('cancelled')}, ${releaseHolds('cancelled')}, logged as (
      insert into events (order_id, type, actor, at, data)
      select id, 'order.cancelled', $3, cancelled_at, jsonb_build_object('reason', $2::text)
      from cancelled
    )
    select * from cancelled`,
};

/** Cancels a pending order at once and puts its stock back on sale. A freeze does not hold it: somebody wants it. */
export function cancelOrder(database: Database, request: CancelRequest): Promise<CancelAnswer> {
  const { orderId, reason, actor } = request;
  return transaction(database, async (tx): Promise<CancelAnswer> => {
    const [, [row]] = await Promise.all([
      tx.query(lockOrder, [orderId]),
      tx.query<OrderRow>(cancelPending, [orderId, reason, actor]),
    ]);
    if (row !== undefined) return { outcome: 'cancelled', order: toOrder(row) };
    const order = (await readOrders(tx, [orderId])).get(orderId);
    if (order === undefined) return { outcome: 'order_not_found' };
    return { outcome: order.status === 'paid' ? 'already_paid' : 'already_cancelled', order };
  });
}
