import { queryable, transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
import { readOrders } from './find.ts';
import type { Order } from './order.ts';
import type { OrderKind } from './policies.ts';

/**
 * Payment attempts: each is one way for a customer to pay one order, a page at a provider for example.
 *
 * `opening` → `open` → `closed` or `paid`; `refused` where the provider would not open it. An attempt that has not ended
 * may still bring money, so it is counted on its order's row (`open_attempt_count`), and an order with such attempts is not
 * cancelled for time before the provider gave its verdict on each of them.
 *
 * The row is written before the provider is called, and everything that the call needs is on it. So a call whose answer
 * was lost is made again in the same way: under its id as idempotency key the provider opens nothing twice.
 */
export interface PaymentAttempt {
  /** UUIDv7; the idempotency key at the provider. */
  readonly id: string;
  readonly orderId: string;
  readonly provider: string;
  readonly state: AttemptState;
  /** The provider's id; null while it is not known. */
  readonly providerAttemptId: string | null;
  readonly handOffAs: 'url' | 'client_secret';
  readonly returnUrl: string | null;
  /** The deadline when it was opened; null: there was none. */
  readonly payBy: Date | null;
  /** What the customer needs; null until the provider answered. */
  readonly handOff: HandOff | null;
  readonly createdAt: Date;
  readonly endedAt: Date | null;
  /** What the provider said last while the attempt had not ended, since when, and why. */
  readonly verdict: 'open' | 'processing' | 'unknown' | null;
  readonly verdictSince: Date | null;
  readonly verdictReason: string | null;
}

/** `opening` and `open` may still bring money. */
export type AttemptState = 'opening' | 'open' | 'closed' | 'paid' | 'refused';

/** What a customer needs to pay. */
export interface HandOff {
  readonly url?: string;
  readonly clientSecret?: string;
  readonly instructions?: string;
}

/** SQL: the columns of an attempt `a`. */
export const attemptColumns = `
  a.id, a.order_id as "orderId", a.provider, a.state, a.provider_attempt_id as "providerAttemptId",
  a.hand_off_as as "handOffAs", a.return_url as "returnUrl", nullif(a.pay_by, 'infinity') as "payBy",
  a.hand_off as "handOff", a.created_at as "createdAt", a.ended_at as "endedAt", a.verdict,
  a.verdict_since as "verdictSince", a.verdict_reason as "verdictReason"`;

/** How long before the deadline a provider is asked by itself, ms: a lost notice of a payment is noticed in time. */
const askBeforeMs = 60_000;

/**
 * SQL: when the provider of an open attempt of `o` is asked by itself; null where the deadline is near. Where there is none
 * it is asked once a day.
 */
const nextAsk = (now: string): string => `case
        when o.expire_at = 'infinity' then ${now} + interval '1 day'
        when o.expire_at - interval '${askBeforeMs} ms' > ${now}
          then o.expire_at - interval '${askBeforeMs} ms'
      end`;

/** A customer's wish to pay. */
export interface AttemptRequest {
  readonly orderId: string;
  readonly provider: string;
  readonly handOffAs: 'url' | 'client_secret';
  readonly returnUrl: string | null;
  readonly actor: string;
}

/**
 * What became of it. `opening`: the provider is to be called, now or again. `open`: it was opened before, and is as it was.
 * `order_closing`: the order's time is over, the providers are being asked.
 */
export type AttemptAnswer =
  | { readonly outcome: 'opening' | 'open'; readonly attempt: PaymentAttempt; readonly order: Order }
  | { readonly outcome: 'not_pending' | 'order_closing'; readonly order: Order }
  | { readonly outcome: 'order_not_found' };

const lockOrder: Statement = {
  name: 'attempt_lock_order',
  text: `
    select
      o.status = 'pending_payment' as "isPending",
      o.closing_at is not null or o.expire_at <= clock_timestamp() as "isClosing"
    from orders o
    where o.id = $1
    for no key update`,
};

const readOpen: Statement = {
  name: 'attempt_read_open',
  text: `
    select ${attemptColumns} from payment_attempts a
    where a.order_id = $1 and a.provider = $2 and a.ended_at is null`,
};

const insertAttempt: Statement = {
  name: 'attempt_insert',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), counted as (
      update orders o set
        open_attempt_count = o.open_attempt_count + 1,
        -- The first time stays.
        providers = jsonb_build_object($3::text, clock.at) || coalesce(o.providers, '{}')
      from clock
      where o.id = $2
      returning o.deadline_at, o.expire_at
    ), inserted as (
      insert into payment_attempts as a (
        id, order_id, provider, hand_off_as, return_url, pay_by, created_at, ask_at
      )
      select $1, $2, $3, $4, $5, o.deadline_at, clock.at, ${nextAsk('clock.at')}
      from counted o cross join clock
      returning ${attemptColumns}
    ), logged as (
      insert into events (order_id, type, actor, at, data)
      select "orderId", 'attempt.opened', $6, "createdAt", jsonb_build_object('attemptId', id, 'provider', provider)
      from inserted
    )
    select * from inserted`,
};

/**
 * Begins an attempt. An order has one open attempt for each provider: where there is one, it is answered, so that a page
 * that is loaded twice leads to the same place.
 */
export function beginAttempt(database: Database, request: AttemptRequest): Promise<AttemptAnswer> {
  const { orderId, provider, handOffAs, returnUrl, actor } = request;
  return transaction(database, async (tx): Promise<AttemptAnswer> => {
    const [[locked], [open], found] = await Promise.all([
      tx.query<{ isPending: boolean; isClosing: boolean }>(lockOrder, [orderId]),
      tx.query<PaymentAttempt>(readOpen, [orderId, provider]),
      readOrders(tx, [orderId]),
    ]);
    const order = found.get(orderId);
    if (locked === undefined || order === undefined) return { outcome: 'order_not_found' };
    if (!locked.isPending) return { outcome: 'not_pending', order };
    if (locked.isClosing) return { outcome: 'order_closing', order };
    if (open !== undefined)
      return { outcome: open.state === 'open' ? 'open' : 'opening', attempt: open, order };
    const [attempt] = await tx.query<PaymentAttempt>(insertAttempt, [
      uuidv7(),
      orderId,
      provider,
      handOffAs,
      returnUrl,
      actor,
    ]);
    if (attempt === undefined) throw new Error('an attempt was not written');
    return { outcome: 'opening', attempt, order };
  });
}

const saveOpened: Statement = {
  name: 'attempt_save_opened',
  text: `
    update payment_attempts a set state = 'open', provider_attempt_id = $2, hand_off = $3::jsonb
    where a.id = $1 and a.state = 'opening'
    returning ${attemptColumns}`,
};

const readAttempt: Statement = {
  name: 'attempt_read',
  text: `select ${attemptColumns} from payment_attempts a where a.id = $1`,
};

/**
 * Keeps what a provider answered to the opening of an attempt. One that has ended meanwhile stays so.
 *
 * @returns the attempt as it is now; undefined where it was removed
 */
export async function recordOpened(
  database: Database,
  opened: { attemptId: string; providerAttemptId: string; handOff: HandOff },
): Promise<PaymentAttempt | undefined> {
  const db = queryable(database);
  const { attemptId, providerAttemptId, handOff } = opened;
  const [saved] = await db.query<PaymentAttempt>(saveOpened, [
    attemptId,
    providerAttemptId,
    JSON.stringify(handOff),
  ]);
  if (saved !== undefined) return saved;
  const [attempt] = await db.query<PaymentAttempt>(readAttempt, [attemptId]);
  return attempt;
}

const readOfOrder: Statement = {
  name: 'attempts_of_order',
  text: `select ${attemptColumns} from payment_attempts a where a.order_id = $1 order by a.id`,
};

/** The attempts of an order, oldest first. */
export function readAttempts(db: Queryable, orderId: string): Promise<PaymentAttempt[]> {
  return db.query<PaymentAttempt>(readOfOrder, [orderId]);
}

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
        where due.ask_at <= (select at from clock)
        order by due.ask_at
        limit $1
        for no key update skip locked
      )
      returning a.*
    )
    select ${askColumns}, case when o.status = 'pending_payment' then 'look' else 'close' end as "how"
    from claimed a
    join orders o on o.id = a.order_id
    -- Behind the fence the order's own time decides.
    where o.closing_at is null`,
};

/** A question that is due by itself: `look` at an attempt whose order is pending, `close` one whose order is settled. */
export interface AskDue extends AttemptToAsk {
  readonly how: 'look' | 'close';
}

/** Takes up to `limit` questions that are due by themselves. Those that get no verdict are due again after 45 s. */
export function claimDueAsks(database: Database, limit: number): Promise<AskDue[]> {
  return transaction(database, (tx) => tx.query<AskDue>(claimAsks, [limit]));
}

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
    ), counted as (
      -- Nobody waits for a provider any more: the order's own time decides again, and clears the fence if it is not over.
      update orders o set
        open_attempt_count = o.open_attempt_count - 1,
        closing_at = case when o.open_attempt_count > 1 or o.expire_at <= clock.at then o.closing_at end,
        check_at = case
          when o.status <> 'pending_payment' or o.open_attempt_count > 1 then o.check_at
          else greatest(o.expire_at, clock.at)
        end
      from ended cross join clock
      where o.id = ended.order_id
      returning o.id, o.status = 'pending_payment' and o.open_attempt_count = 0 and o.expire_at <= clock.at as is_due
    ), logged as (
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
        alarm_at = case when a.verdict = $2 then a.alarm_at else clock.at + $4 * interval '1 ms' end,
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

const findByNames: Statement = {
  name: 'attempt_find',
  text: `
    select ${attemptColumns} from payment_attempts a
    where a.provider = $1 and (a.id = $2::uuid or a.provider_attempt_id = $3)
    order by a.id = $2::uuid desc nulls last
    limit 1`,
};

/** Finds the attempt that a provider tells of, by our id or by its own. */
export async function findAttempt(
  db: Queryable,
  named: { provider: string; attemptId: string | null; providerAttemptId: string | null },
): Promise<PaymentAttempt | undefined> {
  const [row] = await db.query<PaymentAttempt>(findByNames, [
    named.provider,
    named.attemptId,
    named.providerAttemptId,
  ]);
  return row;
}

const askSoon: Statement = {
  name: 'attempts_ask_soon',
  text: `
    with locked as (
      select a.id from payment_attempts a
      where a.provider = $1 and a.ended_at is null and a.created_at >= clock_timestamp() - $2 * interval '1 ms'
      order by a.id
      for no key update
    )
    update payment_attempts a set ask_at = clock_timestamp()
    from locked
    where a.id = locked.id
    returning a.id`,
};

const askFencedSoon: Statement = {
  name: 'attempts_ask_fenced_soon',
  text: `
    with locked as (
      select o.id from orders o
      where o.status = 'pending_payment' and o.closing_at is not null and o.id in (
        select a.order_id from payment_attempts a
        where a.provider = $1 and a.ended_at is null and a.created_at >= clock_timestamp() - $2 * interval '1 ms'
      )
      order by o.id
      for no key update
    )
    update orders o set check_at = clock_timestamp()
    from locked
    where o.id = locked.id and o.closing_at is not null`,
};

/**
 * Asks for a look at every attempt of a provider that has not ended, after an outage in which its webhooks were lost. The
 * workers do it. Behind the fence the order's own time decides, so it is that which has come.
 *
 * @param request.sinceMs only those that were opened within the last so many ms
 * @returns how many will be looked at
 */
export function requestReconcile(
  database: Database,
  request: { provider: string; sinceMs: number },
): Promise<number> {
  const { provider, sinceMs } = request;
  return transaction(database, async (tx) => {
    await tx.query(askFencedSoon, [provider, sinceMs]);
    const rows = await tx.query<{ id: string }>(askSoon, [provider, sinceMs]);
    return rows.length;
  });
}

const countDueAsks: Statement = {
  name: 'attempts_count_due_asks',
  text: `
    select count(*) as count from payment_attempts a
    where a.provider = $1 and a.ask_at <= clock_timestamp()`,
};

/** How many questions to a provider are due and not taken by a worker yet. */
export async function dueAskCount(db: Queryable, provider: string): Promise<number> {
  const [row] = await db.query<{ count: number }>(countDueAsks, [provider]);
  return row?.count ?? 0;
}

const readProviders: Statement = {
  name: 'attempt_providers',
  // From one to the next in the index: a provider has millions of attempts, and there are few providers.
  text: `
    with recursive seen as (
      (select a.provider from payment_attempts a order by a.provider limit 1)
      union all
      select (select a.provider from payment_attempts a where a.provider > seen.provider order by a.provider limit 1)
      from seen
      where seen.provider is not null
    )
    select provider from seen where provider is not null`,
};

/** The providers with which there ever was an attempt, by their names. */
export async function readAttemptProviders(db: Queryable): Promise<string[]> {
  return (await db.query<{ provider: string }>(readProviders)).map(({ provider }) => provider);
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
        and a.verdict_since <= clock_timestamp() - $1 * interval '1 ms'
      limit 10000
    ) as held
    group by verdict`,
};

/** Attempts whose provider has said `unknown` or `processing` for longer than `forMs`; counted up to 10,000. */
export async function countHeldAttempts(db: Queryable, forMs: number): Promise<VerdictCounts> {
  return toCounts(await db.query<VerdictCount>(countHeld, [forMs]));
}
