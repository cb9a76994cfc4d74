import { transaction, type Database, type Statement } from '@lapse/runtime';
import { nextAsk, uncountAttempts } from './open-attempts.ts';
import type { OrderKind } from './policies.ts';

/**
 * What a provider said of an attempt that brought no money.
 *
 * - `closed`, `refused`: none can come of it any more
 * - `processing`: it is on its way
 * - `open`: the customer may still pay; only a look says so
 * - `unknown`: the provider did not say
 */
export interface AttemptVerdict {
  readonly attemptId: string;
  readonly verdict: 'closed' | 'refused' | 'processing' | 'open' | 'unknown';
  readonly reason?: string;
  readonly actor: string;
}

/** What came of it. `isDue`: none of its attempts is open any more, and the order's time is over. */
export type VerdictAnswer =
  | { readonly outcome: 'recorded'; readonly orderId: string; readonly isDue: boolean }
  | { readonly outcome: 'had_ended' | 'attempt_not_found' };

const lockOrderOf: Statement = {
  name: 'verdict_lock_order',
  text: `
    select o.id as "orderId", o.channel, o.payment_method as "paymentMethod" from orders o
    where o.id = (select order_id from payment_attempts where id = $1)
    for no key update`,
};

/**
 * How long until a provider is asked again: one second, doubled each time up to 5 minutes, and spread, so that thousands
 * do not come back at once. Money on its way takes hours or days, and its end is told by a webhook: every 15 minutes.
 */
const backoff = `case $2
        when 'processing' then interval '15 minutes'
        else least(interval '1 second' * 2 ^ least(a.ask_count, 9), interval '5 minutes')
      end * (0.75 + random() * 0.5)`;

const endAttempt: Statement = {
  name: 'verdict_end_attempt',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), ended as (
      update payment_attempts a set
        state = $2, ended_at = clock.at, ask_at = null, verdict = null, verdict_since = null, verdict_reason = $3
      from clock
      where a.id = $1 and a.ended_at is null
      returning a.id, a.order_id, a.provider, a.state, a.verdict_reason
    ), ${uncountAttempts('ended')}, logged as (
      insert into events (order_id, type, actor, at, data)
      select order_id, 'attempt.' || state, $4, clock.at, jsonb_strip_nulls(jsonb_build_object(
        'attemptId', id, 'provider', provider, 'reason', verdict_reason
      ))
      from ended cross join clock
    )
    select is_due as "isDue" from counted`,
};

const noteVerdict: Statement = {
  name: 'verdict_note',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), noted as (
      update payment_attempts a set
        verdict = $2,
        verdict_since = case when a.verdict = $2 then a.verdict_since else clock.at end,
        -- Money on its way stays so while its provider does not answer.
        processing_since = case $2
          when 'processing' then coalesce(a.processing_since, clock.at)
          when 'unknown' then a.processing_since
        end,
        alarm_at = case
          when $2 = 'processing' then coalesce(a.processing_since, clock.at) + $4 * interval '1 ms'
          when a.verdict = $2 then a.alarm_at
          else clock.at + $4 * interval '1 ms'
        end,
        verdict_reason = $3,
        ask_count = case when a.verdict = $2 then a.ask_count + 1 else 1 end,
        ask_at = case
          -- Behind the fence the order's own time decides, see below.
          when o.closing_at is not null then null
          -- Once more shortly before the deadline, as after an extension.
          when $2 in ('open', 'processing') and o.status = 'pending_payment' then ${nextAsk('clock.at')}
          else clock.at + ${backoff}
        end
      from orders o cross join clock
      where a.id = $1 and a.ended_at is null and o.id = a.order_id
      returning a.*
    ), held as (
      update orders o set check_at = greatest(o.expire_at, clock.at + ${backoff})
      from noted a cross join clock
      where o.id = a.order_id and o.closing_at is not null
    )
    select order_id as "orderId" from noted`,
};

/** How long a provider may leave us without an answer before ops are told, ms. */
const unknownMs = 5 * 60_000;

/** The order that an attempt is of, as far as its policy needs it. */
interface OrderOfAttempt extends OrderKind {
  readonly orderId: string;
}

/**
 * Keeps what a provider said of an attempt. What it said of money goes to `pay`.
 *
 * @param processingMsOf how long money for an order may be on its way before ops are told: its policy
 */
export function recordVerdict(
  database: Database,
  said: AttemptVerdict,
  processingMsOf: (order: OrderKind) => number,
): Promise<VerdictAnswer> {
  const { attemptId, verdict, reason = null, actor } = said;
  return transaction(database, async (tx): Promise<VerdictAnswer> => {
    // Orders before attempts, as everywhere.
    const [locked] = await tx.query<OrderOfAttempt>(lockOrderOf, [attemptId]);
    if (locked === undefined) return { outcome: 'attempt_not_found' };
    const { orderId } = locked;
    if (verdict === 'closed' || verdict === 'refused') {
      const [ended] = await tx.query<{ isDue: boolean }>(endAttempt, [attemptId, verdict, reason, actor]);
      return ended === undefined ? { outcome: 'had_ended' } : { outcome: 'recorded', orderId, ...ended };
    }
    const alarmMs = { unknown: unknownMs, processing: processingMsOf(locked), open: null }[verdict];
    const [noted] = await tx.query<{ orderId: string }>(noteVerdict, [attemptId, verdict, reason, alarmMs]);
    return noted === undefined ? { outcome: 'had_ended' } : { outcome: 'recorded', orderId, isDue: false };
  });
}
