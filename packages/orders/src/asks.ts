import { queryable, transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';
import { attemptColumns, type PaymentAttempt } from './attempts.ts';
import { isFrozen } from './freeze.ts';
import type { Order } from './order.ts';

/**
 * Questions to providers. Those about a due order come with the fence: expiry claims the order, by its `check_at`. Others are
 * due by themselves, at the `ask_at` of an attempt: shortly before the deadline, after its order was settled otherwise, and
 * when somebody reconciles.
 */

/** An attempt whose provider is to be asked, with what the question needs of its order. */
export interface AttemptToAsk extends PaymentAttempt {
  readonly order: Pick<Order, 'id' | 'reference' | 'amount' | 'currency'>;
}

const askColumns = `${attemptColumns}, json_build_object(
    'id', o.id, 'reference', o.reference, 'amount', o.amount, 'currency', o.currency
  ) as "order"`;

const readOpenOfOrders: Statement = {
  name: 'attempts_open_of_orders',
  text: `
    select ${askColumns}
    from unnest($1::uuid[]) as wanted (id)
    cross join lateral (select * from orders where orders.id = wanted.id limit 1) as o
    cross join lateral (select * from payment_attempts a where a.order_id = o.id and a.ended_at is null) as a`,
};

/** The attempts of orders that wait for a verdict. */
export function readOpenAttempts(db: Queryable, orderIds: readonly string[]): Promise<AttemptToAsk[]> {
  return db.query<AttemptToAsk>(readOpenOfOrders, [orderIds]);
}

/**
 * How long a claimed question is left to the process that claimed it, ms. A provider has 8 s for a call, and closing may
 * take four of them; after this time the process has died.
 */
export const claimMs = 45_000;

const claimAsks: Statement = {
  name: 'attempts_claim_asks',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), claimed as (
      update payment_attempts a set ask_at = clock.at + interval '${claimMs} ms'
      from clock
      where a.id in (
        select due.id from payment_attempts due
        where due.ask_at <= (select at from clock) and due.provider <> all ($2::text[])
        order by due.ask_at
        limit $1
        for no key update skip locked
      )
      returning a.*
    )
    select ${askColumns}, case when o.status = 'pending_payment' then 'look' else 'close' end as "how"
    from claimed a
    join orders o on o.id = a.order_id
    -- Behind the fence the order's own time decides, unless that stands still.
    where o.closing_at is null or ${isFrozen}`,
};

/** A question that is due by itself: `look` at an attempt whose order is pending, `close` one whose order is settled. */
export interface AskDue extends AttemptToAsk {
  readonly how: 'look' | 'close';
}

/**
 * Takes up to `limit` questions that are due by themselves. Those that get no verdict are due again after 45 s.
 *
 * @param but providers for which none is taken
 */
export function claimDueAsks(database: Database, limit: number, but: readonly string[]): Promise<AskDue[]> {
  return transaction(database, (tx) => tx.query<AskDue>(claimAsks, [limit, but]));
}

const putOff: Statement = {
  name: 'attempts_put_off',
  text: `
    with locked as (
      select id from orders where id = any ($1::uuid[]) order by id for no key update
    )
    update orders o set check_at = clock_timestamp() + $2 * interval '1 ms'
    from locked
    where o.id = locked.id and o.status = 'pending_payment' and o.closing_at is not null`,
};

/** Leaves fenced orders alone for a while: more are due than their providers may be asked about now. */
export async function putOffClosing(
  database: Database,
  orderIds: readonly string[],
  pauseMs: number,
): Promise<void> {
  await transaction(database, (tx) => tx.query(putOff, [orderIds, pauseMs]));
}

/** SQL: the open attempts `a` that somebody wants to have asked about: of a provider, all or those opened lately. */
const isWanted = `a.provider = $1 and a.ended_at is null
        and ($2::float8 is null or a.created_at >= clock_timestamp() - $2::float8 * interval '1 ms')`;

const askSoon: Statement = {
  name: 'attempts_ask_soon',
  text: `
    with locked as (
      select a.id from payment_attempts a
      where ${isWanted}
      order by a.id
      for no key update
    )
    update payment_attempts a set ask_at = clock_timestamp()
    from locked
    where a.id = locked.id
    returning a.id, a.ask_count as "askCount", a.verdict_since as "verdictSince"`,
};

const askFencedSoon: Statement = {
  name: 'attempts_ask_fenced_soon',
  text: `
    with locked as (
      select o.id from orders o
      where o.status = 'pending_payment' and o.closing_at is not null and o.id in (
        select a.order_id from payment_attempts a
        where ${isWanted}
      )
      order by o.id
      for no key update
    )
    update orders o set check_at = clock_timestamp()
    from locked
    where o.id = locked.id and o.closing_at is not null`,
};

/** An attempt that is to be asked about, with what tells an answer that comes from those that came before. */
interface Asked {
  readonly id: string;
  readonly askCount: number;
  readonly verdictSince: Date | null;
}

/** What came of the questions so far: how many attempts there are of each kind. */
interface Answers {
  /** No answer has come yet. */
  readonly waiting: number;
  /** Closed, paid or refused. */
  readonly ended: number;
  readonly open: number;
  readonly processing: number;
  /** The provider did not say. */
  readonly unknown: number;
}

const readAnswers: Statement = {
  name: 'attempts_read_answers',
  text: `
    select asked.id, case when a.id is null or a.ended_at is not null then 'ended' else a.verdict end as "said"
    from unnest($1::uuid[], $2::int[], $3::timestamptz[]) as asked (id, ask_count, verdict_since)
    -- One by one, see readOrders.
    left join lateral (select * from payment_attempts where payment_attempts.id = asked.id limit 1) as a on true
    where a.id is null or a.ended_at is not null
      or (a.ask_count, a.verdict_since) is distinct from (asked.ask_count, asked.verdict_since)`,
};

/** Questions that somebody asked for. */
export interface Reconciliation {
  readonly attemptCount: number;
  /** Reads what came of them. */
  readonly answers: () => Promise<Answers>;
}

/**
 * Asks for a look at every attempt of a provider that has not ended, after an outage in which its webhooks were lost. The
 * workers do it. Behind the fence the order's own time decides, so it is that which has come.
 *
 * @param request.sinceMs only those that were opened within the last so many ms; null: all
 */
export async function requestReconcile(
  database: Database,
  request: { provider: string; sinceMs: number | null },
): Promise<Reconciliation> {
  const { provider, sinceMs } = request;
  const asked = await transaction(database, async (tx) => {
    await tx.query(askFencedSoon, [provider, sinceMs]);
    return tx.query<Asked>(askSoon, [provider, sinceMs]);
  });
  const db = queryable(database);
  const left = new Map(asked.map((one) => [one.id, one]));
  const counts = { ended: 0, open: 0, processing: 0, unknown: 0 };
  return {
    attemptCount: asked.length,
    answers: async () => {
      const some = [...left.values()];
      const rows = await db.query<{ id: string; said: Exclude<keyof Answers, 'waiting'> }>(readAnswers, [
        some.map(({ id }) => id),
        some.map(({ askCount }) => askCount),
        some.map(({ verdictSince }) => verdictSince),
      ]);
      for (const { id, said } of rows) if (left.delete(id)) counts[said] += 1;
      return { ...counts, waiting: left.size };
    },
  };
}

const readOneToAsk: Statement = {
  name: 'attempt_one_to_ask',
  text: `
    with newest as materialized (
      select * from payment_attempts a where a.provider = $1 order by a.id desc limit 100
    )
    select ${askColumns}
    from newest a
    join orders o on o.id = a.order_id
    where a.provider_attempt_id is not null or a.ended_at is null
    -- Any of them: the provider may have trouble with one.
    order by a.provider_attempt_id is null, a.ended_at is not null, random()
    limit 1`,
};

/**
 * An attempt of a provider to ask it about, just to see whether it answers: one of its newest, an open one where there
 * is one.
 */
export async function attemptToAsk(db: Queryable, provider: string): Promise<AttemptToAsk | undefined> {
  const [row] = await db.query<AttemptToAsk>(readOneToAsk, [provider]);
  return row;
}
