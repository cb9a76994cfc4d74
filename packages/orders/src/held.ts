import type { Queryable, Statement } from '@lapse/runtime';
import type { OrderStatus } from './order.ts';

/** An attempt that holds its order, with what a person needs to know of both. */
export interface HeldAttempt {
  readonly id: string;
  readonly provider: string;
  /** `unknown`: the provider does not say. `processing`: money is on its way, it says. */
  readonly verdict: 'unknown' | 'processing';
  readonly verdictSince: Date;
  readonly verdictReason: string | null;
  /** How often it said so. */
  readonly askCount: number;
  readonly orderId: string;
  readonly reference: string | null;
  readonly status: OrderStatus;
  /** Minor units. */
  readonly amount: number;
  readonly currency: string;
  /** Since when the order is fenced; null: its time is not over, or it is settled. */
  readonly closingAt: Date | null;
}

/** Where a page of them begins: behind this attempt. */
export interface HeldCursor {
  readonly verdictSince: Date;
  readonly id: string;
}

const ofVerdict = (verdict: HeldAttempt['verdict']): string => `(
        select * from payment_attempts a
        where a.ended_at is null and a.verdict = '${verdict}'
          and (a.verdict_since, a.id) > ($1::timestamptz, $2::uuid)
        order by a.verdict_since, a.id
        limit $3
      )`;

const readHeld: Statement = {
  name: 'attempts_held',
  // Two walks through one index, which has the attempts of each verdict by age.
  text: `
    select
      a.id, a.provider, a.verdict, a.verdict_since as "verdictSince", a.verdict_reason as "verdictReason",
      a.ask_count as "askCount", o.id as "orderId", o.reference, o.status, o.amount, o.currency,
      o.closing_at as "closingAt"
    from (
      select * from (
        ${ofVerdict('unknown')}
        union all
        ${ofVerdict('processing')}
      ) as a
      order by a.verdict_since, a.id
      limit $3
    ) as a
    -- One by one, see readOrders.
    cross join lateral (select * from orders where orders.id = a.order_id limit 1) as o
    order by a.verdict_since, a.id`,
};

/** Attempts of which the provider says `unknown` or `processing`, those of which it says so longest first. */
export function listHeld(db: Queryable, page: { after?: HeldCursor; limit: number }): Promise<HeldAttempt[]> {
  const { after = { verdictSince: new Date(0), id: '00000000-0000-0000-0000-000000000000' }, limit } = page;
  return db.query<HeldAttempt>(readHeld, [after.verdictSince, after.id, limit]);
}

const readFence: Statement = {
  name: 'order_fence',
  text: `select closing_at as "closingAt" from orders where id = $1`,
};

/** Since when an order is fenced: its providers are being asked before it is cancelled. Undefined: it is not. */
export async function closingSince(db: Queryable, orderId: string): Promise<Date | undefined> {
  const [row] = await db.query<{ closingAt: Date | null }>(readFence, [orderId]);
  return row?.closingAt ?? undefined;
}

/** How many attempts there are of each verdict that holds their orders. */
export interface VerdictCounts {
  readonly unknown: number;
  readonly processing: number;
}

interface VerdictCount {
  readonly verdict: keyof VerdictCounts;
  readonly count: number;
}

function toCounts(rows: readonly VerdictCount[]): VerdictCounts {
  const counts = { unknown: 0, processing: 0 };
  for (const { verdict, count } of rows) counts[verdict] = count;
  return counts;
}

const readAlarms: Statement = {
  name: 'attempts_count_alarms',
  text: `
    select verdict, count(*) as count from (
      select a.verdict from payment_attempts a
      where a.ended_at is null and a.alarm_at <= clock_timestamp()
      limit 10000
    ) as late
    group by verdict`,
};

/**
 * Attempts that ops must see to, counted up to 10,000: the provider has not answered for 5 minutes, or money is on its way
 * for longer than the order's policy allows.
 */
export async function countAlarms(db: Queryable): Promise<VerdictCounts> {
  return toCounts(await db.query<VerdictCount>(readAlarms));
}

const countHeld: Statement = {
  name: 'attempts_count_held',
  text: `
    select verdict, count(*) as count from (
      select a.verdict from payment_attempts a
      where a.ended_at is null and a.verdict in ('unknown', 'processing')
      limit 10000
    ) as held
    group by verdict`,
};

/** Attempts whose provider says `unknown` or `processing`, counted up to 10,000. */
export async function countHeldAttempts(db: Queryable): Promise<VerdictCounts> {
  return toCounts(await db.query<VerdictCount>(countHeld));
}
