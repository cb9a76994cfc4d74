import { transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';
import { claimMs } from './asks.ts';
import { refundColumns, type Refund } from './refund-row.ts';

/**
 * Refunds: money on its way back. One falls due in the transaction that records its payment, so none is forgotten; it is
 * claimed, with the claim committed, before the provider is called, so that a process that dies in the call leaves a trace
 * of it; and it is sent under its id as idempotency key, so that it goes back once.
 */

/** A refund that is to be sent, or asked about, with what the provider needs of its payment. */
export interface RefundToTry extends Refund {
  readonly orderId: string | null;
  readonly provider: string;
  readonly providerPaymentId: string;
  /** Minor units. */
  readonly amount: number;
  readonly currency: string;
  /** How long ago it may have reached the provider first, ms; null: this is its first try. */
  readonly sinceFirstTryMs: number | null;
}

const claimDue: Statement = {
  name: 'refunds_claim',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), due as materialized (
      select id, first_sent_at from refunds
      where try_at <= (select at from clock)
      order by try_at
      limit $1
      for no key update skip locked
    ), claimed as (
      update refunds r set
        try_at = clock.at + interval '${claimMs} ms', try_count = r.try_count + 1,
        first_sent_at = coalesce(r.first_sent_at, clock.at)
      from due cross join clock
      where r.id = due.id
      returning r.*, (extract(epoch from clock.at - due.first_sent_at) * 1000)::float8 as since_first_try_ms
    )
    select
      ${refundColumns}, r.since_first_try_ms as "sinceFirstTryMs", p.order_id as "orderId", p.provider,
      p.provider_payment_id as "providerPaymentId", p.amount, p.currency
    from claimed r
    join payments p on p.id = r.payment_id`,
};

/** Takes up to `limit` refunds that are to be sent, or asked about, now. Those without an answer are due again after 45 s. */
export function claimRefunds(database: Database, limit: number): Promise<RefundToTry[]> {
  return transaction(database, (tx) => tx.query<RefundToTry>(claimDue, [limit]));
}

/** What a provider said of a refund. */
export type RefundVerdict = { readonly actor: string } & (
  | { readonly state: 'sent' | 'confirmed'; readonly providerRefundId: string }
  | { readonly state: 'unknown'; readonly reason: string }
  /** `providerRefundId`: the one that it refused or that failed, where it says; of another than is known here it tells nothing. */
  | { readonly state: 'refused'; readonly reason: string; readonly providerRefundId?: string }
);

/** Names a refund: by our id, or by the provider's. */
export type RefundName =
  | { readonly refundId: string }
  | { readonly provider: string; readonly providerRefundId: string };

const lockIts = (name: string, condition: string): Statement => ({
  name,
  // Orders, payments, refunds: in the order of all locks. A payment without an order has none to lock.
  text: `
    with found as materialized (
      select r.id, r.payment_id, p.order_id from refunds r join payments p on p.id = r.payment_id where ${condition}
    ), locked as materialized (
      select o.id from orders o where o.id = (select order_id from found) for no key update
    )
    select found.id from found left join locked on true`,
});

const lockById = lockIts('refund_lock_by_id', 'r.id = $1::uuid');
const lockByFormerId = lockIts(
  'refund_lock_by_former_id',
  "r.former_ids <> '{}' and r.former_ids @> array[$1::uuid]",
);
const lockByProvider = lockIts('refund_lock_by_provider', 'p.provider = $1 and r.provider_refund_id = $2');

const save: Statement = {
  name: 'refund_save',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), known as materialized (
      -- Its order is locked by an earlier statement.
      select id, sent_at, state from refunds where id = $1
    ), saved as (
      update refunds r set
        state = case $2 when 'unknown' then r.state when 'refused' then 'failed' else $2 end,
        provider_refund_id = coalesce($3, r.provider_refund_id),
        sent_at = case when $2 in ('sent', 'confirmed') then coalesce(r.sent_at, clock.at) else r.sent_at end,
        confirmed_at = case when $2 = 'confirmed' then clock.at end,
        failed_at = case when $2 = 'refused' then clock.at end,
        came_back_at = case when r.state = 'confirmed' then clock.at else r.came_back_at end,
        last_reason = $4,
        try_at = case $2
          -- Its end is told by a webhook; where that is lost, by a question.
          when 'sent' then clock.at + interval '1 hour' * (0.75 + random() * 0.5)
          -- Two seconds, doubled each time up to an hour, and spread.
          when 'unknown' then clock.at
            + least(interval '1 second' * 2 ^ least(r.try_count, 12), interval '1 hour') * (0.75 + random() * 0.5)
        end
      from known cross join clock
      where r.id = known.id and (
        r.state in ('due', 'sent')
        -- A bank may send money back days after the provider thought that it had arrived.
        or r.state = 'confirmed' and $2 = 'refused'
        -- And a provider may have refused what was done already. Once a person has decided again it is too late to know.
        or r.state = 'failed' and $2 = 'confirmed' and r.came_back_at is null
          and exists (select from payments p where p.id = r.payment_id and p.resolved_at is null)
      ) and not ($2 = 'refused' and coalesce($3 <> r.provider_refund_id, false))
      returning r.id, r.payment_id, r.state, r.provider_refund_id, known.sent_at is null as is_first,
        known.state = 'failed' as was_failed
    ), unlisted as (
      update payments p set resolution = 'refund', resolved_at = clock.at, resolved_by = $5
      from saved cross join clock
      where p.id = saved.payment_id and saved.was_failed
    ), listed as (
      -- The provider refused: a person must see to it, also where one has decided that it goes back.
      update payments p set
        listed_at = clock.at, listed_for = 'refund_failed', resolution = null, resolved_at = null, resolved_by = null
      from saved cross join clock
      where p.id = saved.payment_id and saved.state = 'failed'
    ), logged as (
      insert into events (order_id, type, actor, at, data)
      select p.order_id, 'refund.' || saved.state, $5, clock.at, jsonb_strip_nulls(jsonb_build_object(
        'refundId', saved.id, 'paymentId', p.id, 'providerRefundId', saved.provider_refund_id, 'reason', $4::text
      ))
      from saved join payments p on p.id = saved.payment_id cross join clock
      where p.order_id is not null and ($2 in ('confirmed', 'refused') or $2 = 'sent' and saved.is_first)
    )
    select state from saved`,
};

/**
 * Keeps what a provider said of a refund. Of one that has ended only this counts: that it failed after all; or that it
 * arrived, where a person has not decided yet what becomes of one that was refused.
 *
 * @returns the state it is in now; undefined where there is no such refund, or it had ended
 */
export function recordRefund(
  database: Database,
  name: RefundName,
  verdict: RefundVerdict,
): Promise<Refund['state'] | undefined> {
  return transaction(database, async (tx) => {
    const keep = async (lock: Statement, values: readonly string[]): Promise<Refund['state'] | undefined> => {
      const [locked] = await tx.query<{ id: string }>(lock, values);
      if (locked === undefined) return undefined;
      const [saved] = await tx.query<{ state: Refund['state'] }>(save, [
        locked.id,
        verdict.state,
        'providerRefundId' in verdict ? verdict.providerRefundId : null,
        'reason' in verdict ? verdict.reason : null,
        verdict.actor,
      ]);
      return saved?.state;
    };
    if (!('refundId' in name)) return keep(lockByProvider, [name.provider, name.providerRefundId]);
    const kept = await keep(lockById, [name.refundId]);
    if (kept !== undefined || verdict.state !== 'confirmed') return kept;
    // Of one under which it was sent before, also until a moment ago, only this counts: that it arrived after all.
    return keep(lockByFormerId, [name.refundId]);
  });
}

const askSoon: Statement = {
  name: 'refunds_ask_soon',
  text: `
    with locked as (
      select r.id from refunds r
      join payments p on p.id = r.payment_id
      where p.provider = $1 and r.state = 'sent' and r.try_at is not null
        and ($2::float8 is null or r.sent_at >= clock_timestamp() - $2::float8 * interval '1 ms')
      order by r.id
      for no key update of r
    )
    update refunds r set try_at = clock_timestamp()
    from locked
    where r.id = locked.id
    returning r.id`,
};

/**
 * Has the workers ask about every refund that a provider took and of which it has not told the end, after an outage in
 * which its webhooks were lost.
 *
 * @param request.sinceMs only those that it took within the last so many ms; null: all
 * @returns how many
 */
export async function askAboutRefunds(
  database: Database,
  request: { provider: string; sinceMs: number | null },
): Promise<number> {
  const { provider, sinceMs } = request;
  const asked = await transaction(database, (tx) => tx.query<{ id: string }>(askSoon, [provider, sinceMs]));
  return asked.length;
}

const countOpen: Statement = {
  name: 'refunds_count_open',
  text: `
    select state, count(*) as count, coalesce(extract(epoch from clock_timestamp() - min(due_at)) * 1000, 0)::float8 as "oldestMs"
    from (select state, due_at from refunds where try_at is not null limit 10000) as r
    group by state`,
};

/** How many refunds are not at their end, counted up to 10,000, and since when the oldest is due, ms. */
export async function countRefunds(
  db: Queryable,
): Promise<{ readonly due: number; readonly sent: number; readonly oldestMs: number }> {
  const rows = await db.query<{ state: 'due' | 'sent'; count: number; oldestMs: number }>(countOpen);
  const of = (state: string): number => rows.find((row) => row.state === state)?.count ?? 0;
  return { due: of('due'), sent: of('sent'), oldestMs: Math.max(0, ...rows.map(({ oldestMs }) => oldestMs)) };
}
