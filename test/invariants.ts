import type { Database } from '@lapse/runtime';

/** A sentence that is always true, and the query that finds what breaks it: what is concerned, and what was found. */
export interface Invariant {
  readonly name: string;
  readonly breaches: string;
  /** True only while a worker runs. */
  readonly needsWorker?: boolean;
}

/**
 * What must be true of the rows at any time, whatever was killed, flushed or raced. Each is a query for its breaches.
 * Every end-to-end, chaos and load run ends with them. (That events reach their endpoints comes with the endpoints.)
 */
export const invariants: readonly Invariant[] = [
  {
    name: 'an order has at most one terminal transition, the one its status shows, and may be reinstated once',
    breaches: `
      select o.id::text as subject, o.status || ', events: ' || coalesce(told.types, 'none') as found
      from orders o
      left join lateral (
        select string_agg(e.type, ' ' order by e.seq) as types from events e
        where e.order_id = o.id and e.type in ('order.paid', 'order.cancelled', 'order.reinstated')
      ) as told on true
      where not case o.status
        when 'paid' then coalesce(told.types, '') in ('order.paid', 'order.cancelled order.reinstated')
        when 'cancelled' then coalesce(told.types, '') = 'order.cancelled'
        else told.types is null
      end`,
  },
  {
    name: 'held stock is what pending orders hold, and never more than there is',
    breaches: `
      with wanted as (
        select item.sku, sum(item.quantity) as quantity
        from orders o
        cross join lateral jsonb_to_recordset(o.items) as item (sku text, quantity bigint)
        where o.status = 'pending_payment'
        group by item.sku
      )
      select
        coalesce(s.sku, wanted.sku) as subject,
        format('on hand %s, held %s, wanted %s', s.on_hand, s.held, wanted.quantity) as found
      from stock s
      full join wanted on wanted.sku = s.sku
      where coalesce(s.held, 0) <> coalesce(wanted.quantity, 0) or s.held < 0 or s.held > s.on_hand`,
  },
  {
    name: 'no order is cancelled for time before its time, nor while its clock stands still',
    breaches: `
      select o.id::text as subject, format('cancelled %s, expires %s', o.cancelled_at, o.expire_at) as found
      from orders o
      where o.cancel_reason = 'payment_timeout' and (
        o.cancelled_at < o.expire_at
        or exists (
          select from freezes f
          where f.frozen_at < o.cancelled_at and (f.thawing_at is null or o.cancelled_at < f.thawing_at)
            and (f.channel is null or f.channel = o.channel)
            and (f.payment_method is null or f.payment_method = o.payment_method)
            and (f.provider is null or (o.providers ->> f.provider)::timestamptz < o.cancelled_at)
            -- What a brake held, and was to get an extension, has got it.
            or f.extend_ms is not null and f.thawing_at between o.expire_at and o.cancelled_at
        )
      )`,
  },
  {
    name: 'every payment paid its order, goes back, or a person was told; every paid order has one that paid it',
    breaches: `
      select p.id::text as subject, format('%s, order %s, refund %s', p.outcome, o.status, r.state) as found
      from payments p
      left join orders o on o.id = p.order_id
      left join refunds r on r.payment_id = p.id
      where not case
        when p.outcome = 'paid' then o.status is not distinct from 'paid'
        when p.listed_at is not null and p.resolved_at is null then true
        when p.resolution = 'dismiss' then true
        else coalesce(r.state, '') in ('due', 'sent', 'confirmed')
      end
      union all
      select o.id::text, 'paid by ' || count(p.id) || ' payments'
      from orders o
      left join payments p on p.order_id = o.id and p.outcome = 'paid'
      where o.status = 'paid'
      group by o.id
      having count(p.id) <> 1`,
  },
  {
    name: 'an order counts its payment attempts that have not ended',
    breaches: `
      select o.id::text as subject, format('counts %s, has %s', o.open_attempt_count, count(a.id)) as found
      from orders o
      left join payment_attempts a on a.order_id = o.id and a.ended_at is null
      group by o.id
      having o.open_attempt_count <> count(a.id)`,
  },
  {
    name: 'no order is cancelled for time while a payment attempt may still bring money',
    breaches: `
      select o.id::text as subject, format('cancelled %s, attempt ended %s', o.cancelled_at, a.ended_at) as found
      from orders o
      join payment_attempts a on a.order_id = o.id
      where o.cancel_reason = 'payment_timeout' and a.created_at <= o.cancelled_at
        and coalesce(a.ended_at, 'infinity') > o.cancelled_at`,
  },
  {
    name: 'what was cancelled by somebody is not reinstated',
    breaches: `
      select back.order_id::text as subject, ended.data ->> 'reason' as found
      from events back
      join events ended on ended.order_id = back.order_id and ended.type = 'order.cancelled'
      where back.type = 'order.reinstated' and ended.data ->> 'reason' <> 'payment_timeout'`,
  },
  {
    name: 'money that pays an order is what the order costs, unless a person was told',
    breaches: `
      select p.id::text as subject, format('%s %s for %s %s', p.amount, p.currency, o.amount, o.currency) as found
      from payments p
      join orders o on o.id = p.order_id
      where p.outcome = 'paid' and (p.amount, p.currency) is distinct from (o.amount, o.currency)
        and p.listed_at is null`,
  },
  {
    name: 'nothing goes back by itself but what a provider verified, and what goes back has a refund',
    breaches: `
      select r.id::text as subject, format('%s, %s', p.outcome, p.provider) as found
      from refunds r
      join payments p on p.id = r.payment_id
      where r.actor = 'policy' and (not p.verified or p.order_id is null)
      union all
      select p.id::text, 'goes back, without a refund' from payments p
      where p.goes_back and not exists (select from refunds r where r.payment_id = p.id)
      union all
      select p.id::text, 'paid its order and goes back, ' || r.state from payments p
      join refunds r on r.payment_id = p.id
      where p.outcome = 'paid' and r.state <> 'failed' and p.resolution is distinct from 'refund'`,
  },
  {
    name: 'a refund that is not at its end is tried again, one that failed is on the work list or was',
    breaches: `
      select r.id::text as subject, format('%s, try at %s, listed %s', r.state, r.try_at, p.listed_at) as found
      from refunds r
      join payments p on p.id = r.payment_id
      where (r.state in ('due', 'sent')) <> (r.try_at is not null) or r.state = 'failed' and p.listed_at is null`,
  },
  {
    name: 'no attempt is opened behind the fence, and the attempts of settled orders are closed',
    breaches: `
      select o.id::text as subject, format('fenced %s, attempt of %s', o.closing_at, a.created_at) as found
      from orders o
      join payment_attempts a on a.order_id = o.id and a.created_at > o.closing_at
      union all
      select a.id::text, format('%s, order %s', a.state, o.status)
      from payment_attempts a
      join orders o on o.id = a.order_id
      where o.status <> 'pending_payment' and a.ended_at is null and a.ask_at is null`,
  },
  {
    name: 'an attempt that was paid has its payment, and each end is told once',
    breaches: `
      select a.id::text as subject, a.provider as found from payment_attempts a
      where a.state = 'paid'
        and not exists (select from payments p where p.order_id = a.order_id and p.provider = a.provider)
      union all
      select a.id::text, format('%s, told %s', a.state, coalesce(string_agg(e.type, ' ' order by e.seq), 'nothing'))
      from payment_attempts a
      left join events e on e.order_id = a.order_id and e.data ->> 'attemptId' = a.id::text
        and e.type in ('attempt.closed', 'attempt.refused', 'attempt.paid')
      group by a.id
      -- What was closed or refused and then brings money after all is told as both.
      having coalesce(string_agg(e.type, ' ' order by e.seq), '') not in (
        case when a.ended_at is null then '' else 'attempt.' || a.state end,
        case when a.state = 'paid' then 'attempt.closed attempt.paid' else '' end,
        case when a.state = 'paid' then 'attempt.refused attempt.paid' else '' end
      )`,
  },
  {
    name: 'no pending order is overdue by more than 3 s, unless its clock stands still or money may still come',
    needsWorker: true,
    breaches: `
      select o.id::text as subject, format('expired %s', o.expire_at) as found
      from orders o
      where o.status = 'pending_payment' and o.expire_at < clock_timestamp() - interval '3 seconds'
        and o.open_attempt_count = 0 and not exists (select from freezes f where f.state <> 'done')`,
  },
  {
    name: 'a payment reminder is sent once, in its time, and not while the clock of its order stands still',
    breaches: `
      with sent as (
        select
          o as placed, e.at, told.deadline_at, told.before,
          count(*) over (partition by e.order_id, told.deadline_at, told.before) as count
        from events e
        join orders o on o.id = e.order_id
        cross join lateral (
          select
            (e.data ->> 'deadlineAt')::timestamptz as deadline_at,
            (e.data ->> 'beforeMs')::bigint * interval '1 ms' as before
        ) as told
        where e.type = 'order.payment_reminder'
      )
      select
        (sent.placed).id::text as subject,
        format('sent %s, %s times, to be sent %s before %s', sent.at, sent.count, sent.before, sent.deadline_at) as found
      from sent
      where sent.count > 1
        or sent.at < sent.deadline_at - sent.before or sent.at >= sent.deadline_at
        or sent.deadline_at - sent.before <= (sent.placed).created_at
        or exists (
          select from freezes f
          where f.frozen_at < sent.at and (f.thawing_at is null or sent.at < f.thawing_at)
            and (f.channel is null or f.channel = (sent.placed).channel)
            and (f.payment_method is null or f.payment_method = (sent.placed).payment_method)
            and (f.provider is null or ((sent.placed).providers ->> f.provider)::timestamptz < sent.at)
        )`,
  },
  {
    name: 'every order has its order.placed event, once and first',
    breaches: `
      select coalesce(o.id, told.order_id)::text as subject, coalesce(told.types::text, 'no events') as found
      from orders o
      full join (
        select order_id, array_agg(type order by seq) as types from events group by order_id
      ) as told on told.order_id = o.id
      where o.id is null or told.types is null or told.types[1] <> 'order.placed'
        or cardinality(array_positions(told.types, 'order.placed')) <> 1`,
  },
  {
    name: 'after its end nothing happens to an order but what its money brings',
    breaches: `
      select later.order_id::text as subject, ended.type || ', then ' || later.type as found
      from events ended
      join events later on later.order_id = ended.order_id and later.seq > ended.seq
      where ended.type in ('order.paid', 'order.cancelled', 'order.reinstated')
        and later.type !~ '^(payment|refund)\\.|^attempt\\.(closed|paid|refused)$'
        and not (ended.type = 'order.cancelled' and later.type = 'order.reinstated')`,
  },
];

/** An invariant and what broke it. */
export interface InvariantResult {
  readonly name: string;
  readonly breachCount: number;
  /** The first few: what is concerned, and what was found. */
  readonly examples: readonly string[];
}

const mostExamples = 5;

/** The invariants that do not hold for the rows as they are now. */
export async function brokenInvariants(database: Database): Promise<InvariantResult[]> {
  return (await checkInvariants(database)).filter(({ breachCount }) => breachCount > 0);
}

/** Checks every invariant against the rows as they are now. */
export async function checkInvariants(database: Database): Promise<InvariantResult[]> {
  return Promise.all(
    invariants.map(async ({ name, breaches }): Promise<InvariantResult> => {
      const { rows } = await database.query<{ subject: string; found: string }>(breaches);
      const examples = rows.slice(0, mostExamples).map(({ subject, found }) => `${subject}: ${found}`);
      return { name, breachCount: rows.length, examples };
    }),
  );
}
