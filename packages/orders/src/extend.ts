import { transaction, type Database, type Statement } from '@lapse/runtime';
import { isoInstant } from './instant.ts';
import { orderColumns, toOrder, type Order, type OrderRow } from './order.ts';

/** More time for a customer: from the old deadline on, or to an instant. */
export interface ExtendRequest {
  readonly orderId: string;
  readonly to: { readonly byMs: number } | { readonly deadlineAt: Date };
  readonly actor: string;
}

/**
 * What became of it. `out_of_range`: the new deadline would lie before the old one, in the past, or more than 90 days
 * ahead.
 */
export type ExtendAnswer =
  | { readonly outcome: 'extended' | 'not_pending' | 'out_of_range'; readonly order: Order }
  | { readonly outcome: 'order_not_found' };

/** The longest time an order may have before it, ms: 90 days, as for the payment window. */
const farthestMs = 90 * 24 * 60 * 60 * 1000;

const lockOrder: Statement = {
  name: 'extend_lock_order',
  text: `
    select ${orderColumns}, clock_timestamp() as now from orders o
    where o.id = $1
    for no key update`,
};

const moveDeadline: Statement = {
  name: 'extend_move_deadline',
  text: `
    with extended as (
      update orders o set
        deadline_at = $2::timestamptz,
        -- The grace stays as it was.
        expire_at = $2::timestamptz + (o.expire_at - o.deadline_at),
        check_at = $2::timestamptz + (o.expire_at - o.deadline_at)
      where o.id = $1 and o.status = 'pending_payment'
      returning ${orderColumns}
    ), logged as (
      insert into events (order_id, type, actor, at, data)
      select id, 'order.extended', $3, date_trunc('milliseconds', clock_timestamp()), jsonb_build_object(
        'from', ${isoInstant('$4::timestamptz')}, 'to', ${isoInstant('deadline_at')}
      )
      from extended
    )
    select * from extended`,
};

/** Moves the deadline of a pending order further away. The job behind it is the caller's to move. */
export function extendOrder(database: Database, request: ExtendRequest): Promise<ExtendAnswer> {
  const { orderId, to, actor } = request;
  return transaction(database, async (tx): Promise<ExtendAnswer> => {
    const [row] = await tx.query<OrderRow & { now: Date }>(lockOrder, [orderId]);
    if (row === undefined) return { outcome: 'order_not_found' };
    const order = toOrder(row);
    if (order.status !== 'pending_payment') return { outcome: 'not_pending', order };

    const deadlineMs = 'byMs' in to ? order.deadlineAt.getTime() + to.byMs : to.deadlineAt.getTime();
    const nowMs = row.now.getTime();
    if (deadlineMs <= order.deadlineAt.getTime() || deadlineMs <= nowMs || deadlineMs > nowMs + farthestMs) {
      return { outcome: 'out_of_range', order };
    }
    const deadlineAt = new Date(deadlineMs);
    const [extended] = await tx.query<OrderRow>(moveDeadline, [orderId, deadlineAt, actor, order.deadlineAt]);
    if (extended === undefined) throw new Error('a locked pending order was not extended');
    return { outcome: 'extended', order: toOrder(extended) };
  });
}
