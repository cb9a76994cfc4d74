import { queryable, transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
import { readOrders } from './find.ts';
import { isFrozen, shareFreezeLock } from './freeze.ts';
import { nextAsk } from './open-attempts.ts';
import type { Order } from './order.ts';

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
  /** The deadline when it was opened; null: there was none, it was over (in the grace), or the clock stood still. */
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
 * `order_closing`: the order's time is over, the providers are being asked. While its clock stands still it is not over.
 */
export type AttemptAnswer =
  | {
      readonly outcome: 'opening' | 'open';
      readonly attempt: PaymentAttempt;
      readonly order: Order;
      /** It was begun by this call. */
      readonly isNew: boolean;
    }
  | { readonly outcome: 'not_pending' | 'order_closing'; readonly order: Order }
  | { readonly outcome: 'order_not_found' };

const lockOrder: Statement = {
  name: 'attempt_lock_order',
  text: `
    select
      o.status = 'pending_payment' as "isPending",
      o.closing_at is not null as "isFenced",
      o.expire_at <= clock_timestamp() as "isOver",
      ${isFrozen} as "isFrozen"
    from orders o
    where o.id = $1
    for no key update`,
};

interface LockedOrder {
  readonly isPending: boolean;
  readonly isFenced: boolean;
  readonly isOver: boolean;
  readonly isFrozen: boolean;
}

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
      select $1, $2, $3, $4, $5, case when $7 or o.deadline_at <= clock.at then 'infinity' else o.deadline_at end, clock.at, ${nextAsk('clock.at')}
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
    const [, [locked], [open], found] = await Promise.all([
      shareFreezeLock(tx),
      tx.query<LockedOrder>(lockOrder, [orderId]),
      tx.query<PaymentAttempt>(readOpen, [orderId, provider]),
      readOrders(tx, [orderId]),
    ]);
    const order = found.get(orderId);
    if (locked === undefined || order === undefined) return { outcome: 'order_not_found' };
    if (!locked.isPending) return { outcome: 'not_pending', order };
    if (locked.isFenced || (locked.isOver && !locked.isFrozen)) return { outcome: 'order_closing', order };
    if (open !== undefined)
      return { outcome: open.state === 'open' ? 'open' : 'opening', attempt: open, order, isNew: false };
    const [attempt] = await tx.query<PaymentAttempt>(insertAttempt, [
      uuidv7(),
      orderId,
      provider,
      handOffAs,
      returnUrl,
      actor,
      locked.isFrozen,
    ]);
    if (attempt === undefined) throw new Error('an attempt was not written');
    return { outcome: 'opening', attempt, order, isNew: true };
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
