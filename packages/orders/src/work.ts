import { transaction, type Database, type Statement, type Transaction } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
import { isoInstant } from './instant.ts';
import { closeAttempts } from './open-attempts.ts';
import { readPayments, type Payment } from './payments.ts';
import { sellItems } from './sell.ts';
import { lockShelf } from './shelf.ts';

/** What a person decides about a payment on the work list, and why. */
export interface WorkDecision {
  readonly paymentId: string;
  /**
   * - `refund`: it goes back the way it came
   * - `accept`: it pays its order, whatever its amount: a pending one, or one that was cancelled for time and whose stock is
   *   still there
   * - `dismiss`: somebody has seen to it outside of Lapse
   */
  readonly resolution: 'refund' | 'accept' | 'dismiss';
  readonly note: string | null;
  readonly actor: string;
}

/** What became of it. Only `resolved` changed anything. */
export type WorkAnswer =
  | { readonly outcome: 'resolved'; readonly payment: Payment; readonly isPaid: boolean }
  | { readonly outcome: 'not_listed'; readonly payment: Payment }
  /** It goes back already. */
  | { readonly outcome: 'refund_under_way'; readonly payment: Payment }
  /** It cannot pay: there is no such order, it is paid, somebody cancelled it, or its stock is gone. */
  | { readonly outcome: 'orderless' | 'order_already_paid' | 'order_was_cancelled' | 'out_of_stock' }
  | { readonly outcome: 'payment_not_found' };

const lockPayment: Statement = {
  name: 'work_lock',
  text: `
    with its_order as materialized (
      select o.id from orders o
      where o.id = (select order_id from payments where id = $1)
      for no key update
    )
    select (select id from its_order) as "orderId" from payments p
    left join its_order o on true
    where p.id = $1
    for no key update of p`,
};

const readLocked: Statement = {
  name: 'work_read_locked',
  // By itself: a statement that waited for a lock knows of other rows what they were before.
  text: `
    select
      o.id as "orderId", o.status, o.cancel_reason as "cancelReason",
      p.outcome, p.listed_at is not null and p.resolved_at is null as "isListed", r.state as "refundState"
    from payments p
    left join orders o on o.id = p.order_id
    left join refunds r on r.payment_id = p.id
    where p.id = $1`,
};

interface LockedPayment {
  readonly orderId: string | null;
  readonly status: string | null;
  readonly cancelReason: string | null;
  readonly outcome: string;
  readonly isListed: boolean;
  readonly refundState: string | null;
}

const resolve: Statement = {
  name: 'work_resolve',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), resolved as (
      update payments p set
        resolution = $2, resolved_at = clock.at, resolved_by = $3, note = $4,
        decisions = p.decisions || jsonb_strip_nulls(jsonb_build_object(
          'resolution', $2::text, 'actor', $3::text, 'at', ${isoInstant('clock.at')}, 'note', $4::text
        )),
        goes_back = p.goes_back or $2 = 'refund', outcome = case when $5::boolean then 'paid' else p.outcome end
      from clock
      where p.id = $1
      returning p.id, p.order_id, p.outcome
    ), paid as (
      update orders o set
        status = 'paid', paid_at = clock.at, cancelled_at = null, cancel_reason = null, closing_at = null
      from resolved cross join clock
      where $5::boolean and o.id = resolved.order_id
      returning o.id, o.items, o.open_attempt_count, $6::boolean as was_held
    ), ${closeAttempts('paid')}, ${sellItems('paid')}, returned as (
      insert into refunds as r (id, payment_id, actor, due_at, try_at)
      select $7::uuid, resolved.id, $3, clock.at, clock.at from resolved cross join clock
      where $2 = 'refund'
      -- One that was refused. A refusal may be final for its idempotency key: it goes under a new one.
      on conflict (payment_id) do update set
        id = excluded.id,
        -- One that had arrived and came back says nothing any more.
        former_ids = case when r.came_back_at is null then array_append(r.former_ids, r.id) else r.former_ids end,
        came_back_at = null, state = 'due', actor = excluded.actor, try_at = excluded.try_at, failed_at = null,
        provider_refund_id = null, first_sent_at = null, sent_at = null, try_count = 0, last_reason = null
      where r.state = 'failed'
    ), logged as (
      insert into events (order_id, type, actor, at, data)
      select id, case when was_held then 'order.paid' else 'order.reinstated' end, $3, clock.at,
        jsonb_build_object('paymentId', $1::uuid)
      from paid cross join clock
      union all
      select order_id, 'payment.resolved', $3, clock.at, jsonb_strip_nulls(jsonb_build_object(
        'paymentId', id, 'resolution', $2::text, 'note', $4::text,
        'refundId', case when $2 = 'refund' then $7::uuid end
      ))
      from resolved cross join clock
      where order_id is not null
    )
    select id from resolved`,
};

/** Does what a person decided about a payment on the work list. Nothing is on it twice: the first decision counts. */
export function decideWork(database: Database, decision: WorkDecision): Promise<WorkAnswer> {
  const { paymentId, resolution, note, actor } = decision;
  return transaction(database, async (tx): Promise<WorkAnswer> => {
    const locked = await lock(tx, paymentId);
    if (locked === undefined) return { outcome: 'payment_not_found' };
    const read = async (): Promise<Payment> => {
      const payment = (await readPayments(tx, [paymentId])).get(paymentId);
      if (payment === undefined) throw new Error('a locked payment was not found again');
      return payment;
    };
    if (!locked.isListed) return { outcome: 'not_listed', payment: await read() };
    if (locked.refundState === 'due' || locked.refundState === 'sent')
      return { outcome: 'refund_under_way', payment: await read() };
    const how = resolution === 'accept' ? await howToPay(tx, locked) : 'leaves the order';
    if (typeof how !== 'string') return how;
    const pays = how === 'pays' || how === 'reinstates';
    await tx.query(resolve, [paymentId, resolution, actor, note, pays, how === 'pays', uuidv7()]);
    return { outcome: 'resolved', payment: await read(), isPaid: pays };
  });
}

/** Locks a payment and its order. One that had no order, and got one while its lock was waited for, is locked again. */
async function lock(tx: Transaction, paymentId: string): Promise<LockedPayment | undefined> {
  for (;;) {
    const [[locked], [read]] = await Promise.all([
      tx.query<{ orderId: string | null }>(lockPayment, [paymentId]),
      tx.query<LockedPayment>(readLocked, [paymentId]),
    ]);
    if (read === undefined || read.orderId === locked?.orderId) return read;
  }
}

async function howToPay(
  tx: Transaction,
  { orderId, status, cancelReason, outcome }: LockedPayment,
): Promise<'pays' | 'reinstates' | 'leaves the order' | WorkAnswer> {
  if (orderId === null) return { outcome: 'orderless' };
  // It paid its order already, by what was told at first.
  if (outcome === 'paid') return 'leaves the order';
  if (status === 'paid') return { outcome: 'order_already_paid' };
  if (status === 'pending_payment') return 'pays';
  if (cancelReason !== 'payment_timeout') return { outcome: 'order_was_cancelled' };
  const shelf = await lockShelf(tx, [orderId]);
  return shelf.take(orderId) ? 'reinstates' : { outcome: 'out_of_stock' };
}
