import { transaction, type Database, type Statement } from '@lapse/runtime';
import { isoInstant } from './instant.ts';
import { nextReminder } from './next-reminder.ts';
import { askAgain } from './open-attempts.ts';
import { orderColumns, toOrder, type Order, type OrderRow } from './order.ts';

/** More time for a customer: from the old deadline on, or to an instant. */
export interface ExtendRequest {
  readonly orderId: string;
  readonly to: { readonly byMs: number } | { readonly deadlineAt: Date };
  readonly actor: string;
}

/**
 * What became of it. `order_closing`: its time is over, its payment providers are being asked. `out_of_range`: the new
 * deadline would lie before the old one, in the past, or more than 90 days ahead. `beyond_policy`: its policy does not
 * allow that.
 */
export type ExtendAnswer =
  | { readonly outcome: 'extended' | 'not_pending' | 'order_closing' | 'out_of_range'; readonly order: Order }
  | {
      readonly outcome: 'beyond_policy';
      readonly order: Order;
      readonly policy: string;
      readonly bound: string;
    }
  | { readonly outcome: 'order_not_found' };

/** How often, and how far beyond its first deadline, an order may be extended; null: as often, or as far, as wished. */
export interface ExtensionBounds {
  /** Names the policy, for the answer. */
  readonly name: string;
  readonly extension: { readonly maxCount: number | null; readonly maxTotalMs: number | null };
}

/** The longest time an order may have before it, ms: 90 days, as for the payment window. */
const farthestMs = 90 * 24 * 60 * 60 * 1000;

const lockOrder: Statement = {
  name: 'extend_lock_order',
  text: `
    select
      ${orderColumns}, clock_timestamp() as now, o.closing_at is not null as is_closing, o.extension_count, o.extended_ms
    from orders o
    where o.id = $1
    for no key update`,
};

interface LockedOrder extends OrderRow {
  readonly now: Date;
  readonly is_closing: boolean;
  readonly extension_count: number;
  readonly extended_ms: number;
}

const moveDeadline: Statement = {
  name: 'extend_move_deadline',
  text: `
    with extended as (
      update orders o set
        deadline_at = $2::timestamptz,
        -- The grace stays as it was.
        expire_at = $2::timestamptz + (o.expire_at - o.deadline_at),
        check_at = $2::timestamptz + (o.expire_at - o.deadline_at),
        remind_at = ${nextReminder('$2::timestamptz', 'clock_timestamp()')},
        extension_count = o.extension_count + 1,
        extended_ms = o.extended_ms + round(extract(epoch from $2::timestamptz - o.deadline_at) * 1000)
      where o.id = $1 and o.status = 'pending_payment'
      returning ${orderColumns}, o.open_attempt_count
    ), ${askAgain('extended')}, logged as (
      insert into events (order_id, type, actor, at, data)
      select id, 'order.extended', $3, date_trunc('milliseconds', clock_timestamp()), jsonb_build_object(
        'from', ${isoInstant('$4::timestamptz')}, 'to', ${isoInstant('deadline_at')}
      )
      from extended
    )
    select * from extended`,
};

/**
 * Moves the deadline of a pending order further away. The job behind it is the caller's to move.
 *
 * @param boundsOf the policy of an order
 */
export function extendOrder(
  database: Database,
  request: ExtendRequest,
  boundsOf: (order: Order) => ExtensionBounds,
): Promise<ExtendAnswer> {
  const { orderId, to, actor } = request;
  return transaction(database, async (tx): Promise<ExtendAnswer> => {
    const [row] = await tx.query<LockedOrder>(lockOrder, [orderId]);
    if (row === undefined) return { outcome: 'order_not_found' };
    const order = toOrder(row);
    if (order.status !== 'pending_payment') return { outcome: 'not_pending', order };
    if (row.is_closing) return { outcome: 'order_closing', order };
    // Where there is no deadline, there is none that lies after it.
    if (order.deadlineAt === null) return { outcome: 'out_of_range', order };

    const oldMs = order.deadlineAt.getTime();
    const deadlineMs = 'byMs' in to ? oldMs + to.byMs : to.deadlineAt.getTime();
    const nowMs = row.now.getTime();
    if (deadlineMs <= oldMs || deadlineMs <= nowMs || deadlineMs > nowMs + farthestMs) {
      return { outcome: 'out_of_range', order };
    }
    const { name: policy, extension } = boundsOf(order);
    if (extension.maxCount !== null && row.extension_count >= extension.maxCount)
      return { outcome: 'beyond_policy', order, policy, bound: `${extension.maxCount} extensions` };
    if (extension.maxTotalMs !== null && row.extended_ms + deadlineMs - oldMs > extension.maxTotalMs)
      return { outcome: 'beyond_policy', order, policy, bound: `${extension.maxTotalMs} ms in all` };
    const deadlineAt = new Date(deadlineMs);
    const [extended] = await tx.query<OrderRow>(moveDeadline, [orderId, deadlineAt, actor, order.deadlineAt]);
    if (extended === undefined) throw new Error('a locked pending order was not extended');
    return { outcome: 'extended', order: toOrder(extended) };
  });
}
