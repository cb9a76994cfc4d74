import type { Statement, Transaction } from '@lapse/runtime';
import { keepKeys, type KeptKey } from './idempotency.ts';
import { closeAttempts, uncountAttempts } from './open-attempts.ts';
import type { Amendment, Draft, PayRequest, Recorded, Verdict } from './pay-decide.ts';
import { sellItems } from './sell.ts';

const recordPayments: Statement = {
  name: 'pay_record_payments',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), told as materialized (
      select * from jsonb_to_recordset($1::jsonb) as told (
        n int, id uuid, "refundId" uuid, "orderId" uuid, provider text, "providerPaymentId" text, amount bigint,
        currency text, verified boolean, outcome text, "does" text, "listedFor" text, "isRestated" boolean, actor text
      )
    ), recorded as (
      insert into payments (
        id, order_id, provider, provider_payment_id, amount, currency, outcome, verified, recorded_at, goes_back,
        listed_at, listed_for
      )
      select
        id, "orderId", provider, "providerPaymentId", amount, currency, outcome, verified, clock.at, "does" = 'refund',
        case when "listedFor" is not null then clock.at end, "listedFor"
      from told cross join clock
      where not "isRestated"
      -- Two batches that tell of the same captures meet them in the same order.
      order by provider, "providerPaymentId"
    ), restated as (
      -- Told before by somebody who was not sure. The row is kept still by the lock of its order.
      update payments p set
        order_id = told."orderId", amount = told.amount, currency = told.currency, outcome = told.outcome,
        verified = told.verified, goes_back = told."does" = 'refund', listed_at = case when "listedFor" is not null then clock.at end,
        listed_for = "listedFor", resolution = null, resolved_at = null, resolved_by = null
      from told cross join clock
      where told."isRestated" and p.id = told.id
    ), paid as (
      -- The rows are locked already, in order, by an earlier statement.
      update orders o set
        status = 'paid', paid_at = clock.at, cancelled_at = null, cancel_reason = null, closing_at = null
      from told cross join clock
      where o.id = told."orderId" and (
        told."does" = 'pay' and o.status = 'pending_payment'
        or told."does" = 'reinstate' and o.cancel_reason = 'payment_timeout'
      )
      returning o.id, o.items, o.open_attempt_count, told."does" = 'pay' as was_held
    ), ${closeAttempts('paid')}, ${sellItems('paid')}, returned as (
      insert into refunds (id, payment_id, actor, due_at, try_at)
      select "refundId", id, 'policy', clock.at, clock.at from told cross join clock where "does" = 'refund'
    ), logged as (
      insert into events (order_id, type, actor, at, data)
      select
        "orderId",
        case "does"
          when 'pay' then 'order.paid'
          when 'reinstate' then 'order.reinstated'
          when 'refund' then 'payment.refund_due'
          else 'payment.listed'
        end,
        actor, clock.at,
        jsonb_strip_nulls(jsonb_build_object(
          'paymentId', id, 'outcome', outcome, 'provider', provider, 'providerPaymentId', "providerPaymentId",
          'amount', amount, 'currency', currency, 'listedFor', "listedFor",
          'refundId', case when "does" = 'refund' then "refundId" end
        ))
      from told cross join clock
      where "orderId" is not null
      order by n
    ), ${keepKeys('$2')}
    select at from clock`,
};

const amendPayments: Statement = {
  name: 'pay_amend',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), amended as (
      update payments p set
        verified = told.verified, amount = told.amount, currency = told.currency,
        listed_at = case
          when told."listedFor" is null or p.listed_at is not null and p.resolved_at is null then p.listed_at
          else clock.at
        end,
        listed_for = coalesce(told."listedFor", p.listed_for),
        -- Whoever decided about it did not know this.
        resolution = case when told."listedFor" is null then p.resolution end,
        resolved_at = case when told."listedFor" is null then p.resolved_at end,
        resolved_by = case when told."listedFor" is null then p.resolved_by end
      from jsonb_to_recordset($1::jsonb) as told (
        id uuid, verified boolean, amount bigint, currency text, "listedFor" text, actor text
      ) cross join clock
      where p.id = told.id
      returning p.id, p.order_id, p.outcome, p.amount, p.currency, told."listedFor", told.actor
    )
    insert into events (order_id, type, actor, at, data)
    select
      order_id, 'payment.listed', actor, clock.at,
      jsonb_build_object(
        'paymentId', id, 'outcome', outcome, 'amount', amount, 'currency', currency, 'listedFor', "listedFor"
      )
    from amended cross join clock
    where "listedFor" is not null and order_id is not null`,
};

const endPaidAttempts: Statement = {
  name: 'pay_end_attempts',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), locked as materialized (
      select a.id, a.order_id, a.provider, a.ended_at is null as was_open, told.actor
      from payment_attempts a
      join jsonb_to_recordset($1::jsonb) as told ("attemptId" uuid, "orderId" uuid, provider text, actor text)
        on a.id = told."attemptId" and a.order_id = told."orderId" and a.provider = told.provider
      where a.state <> 'paid'
      order by a.id
      for no key update of a
    ), ended as (
      update payment_attempts a set
        state = 'paid', ended_at = coalesce(a.ended_at, clock.at), ask_at = null, verdict = null, verdict_since = null
      from locked cross join clock
      where a.id = locked.id
    ), ${uncountAttempts('(select order_id from locked where was_open)')}
    insert into events (order_id, type, actor, at, data)
    select order_id, 'attempt.paid', actor, clock.at, jsonb_build_object('attemptId', id, 'provider', provider)
    from locked cross join clock
    order by id`,
};

/** Ends the attempts that payments came of. */
export async function endPaid(
  tx: Transaction,
  drafts: readonly Draft[],
  verdicts: readonly Verdict[],
): Promise<void> {
  const ended = new Map<string, Pick<PayRequest, 'attemptId' | 'orderId' | 'provider' | 'actor'>>();
  for (const [n, { request }] of drafts.entries()) {
    const kind = verdicts[n]?.kind;
    if (request.attemptId === undefined || (kind !== 'record' && kind !== 'repeat')) continue;
    // Several notices of one capture end its attempt once.
    const { attemptId, orderId, provider, actor } = request;
    ended.set(attemptId, { attemptId, orderId, provider, actor });
  }
  if (ended.size > 0) await tx.query(endPaidAttempts, [JSON.stringify([...ended.values()])]);
}

/** What is written together: about each payment once. */
interface Round {
  readonly told: Recorded[];
  readonly amended: Amendment[];
}

/** Mostly one round. Where a capture is told several times in a batch, each telling is written over the one before. */
function inRounds(verdicts: readonly Verdict[]): readonly Round[] {
  let round: Round = { told: [], amended: [] };
  let written = new Set<string>();
  const rounds = [round];
  for (const verdict of verdicts) {
    const { amend } = verdict;
    const id = verdict.kind === 'record' ? verdict.paymentId : amend?.id;
    if (id === undefined) continue;
    if (written.has(id)) {
      round = { told: [], amended: [] };
      written = new Set();
      rounds.push(round);
    }
    written.add(id);
    if (verdict.kind === 'record') round.told.push(verdict);
    else if (amend !== undefined) round.amended.push(amend);
  }
  return rounds;
}

/** Sends what writes the verdicts, and the keys with the first of it. */
export function record(
  tx: Transaction,
  verdicts: readonly Verdict[],
  keys: readonly KeptKey[],
): Promise<unknown> {
  const sent = inRounds(verdicts).flatMap(({ told, amended }, n) => {
    const kept = n === 0 ? keys : [];
    const isNothingTold = told.length === 0 && kept.length === 0;
    return [
      isNothingTold ? [] : [tx.query(recordPayments, [rowsOf(told), JSON.stringify(kept)])],
      amended.length === 0 ? [] : [tx.query(amendPayments, [JSON.stringify(amended)])],
    ].flat();
  });
  return Promise.all(sent);
}

function rowsOf(told: readonly Recorded[]): string {
  return JSON.stringify(
    told.map(
      ({ draft: { request, refundId }, paymentId: id, orderId, outcome, does, listedFor, isRestated }, n) => {
        const { idempotency: _, attemptId: __, ...fields } = request;
        return { n, ...fields, id, refundId, orderId, outcome, does, listedFor, isRestated };
      },
    ),
  );
}
