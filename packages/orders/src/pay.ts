import type { Batcher, Database, Statement, Transaction } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
import { allocate, type StockLevel } from './allocate.ts';
import { readOrders } from './find.ts';
import { groupCommit } from './group-commit.ts';
import {
  awaitTwin,
  claimKeys,
  keep,
  keepKeys,
  withoutTwins,
  type Claim,
  type IdempotencyKey,
  type KeptKey,
} from './idempotency.ts';
import type { Order, OrderItem } from './order.ts';
import {
  decidePayment,
  readPayments,
  wayBack,
  type Decision,
  type LateMoney,
  type ListReason,
  type Payment,
  type PaymentOutcome,
} from './payments.ts';
import { closeAttempts, sellItems } from './sell.ts';

/** A payment that somebody reports. */
export interface PayRequest {
  /** Null: whoever reports it cannot say. Only a verified payment is recorded without an order. */
  readonly orderId: string | null;
  readonly provider: string;
  readonly providerPaymentId: string;
  /** Minor units. */
  readonly amount: number;
  readonly currency: string;
  /** Whether a provider's adapter checked it. */
  readonly verified: boolean;
  /** The attempt that it came of; it has ended with that. */
  readonly attemptId?: string | undefined;
  readonly actor: string;
  readonly idempotency?: IdempotencyKey | undefined;
}

/** What became of a payment. `already_recorded`: this capture was told for this order before. */
export type PayAnswer =
  | {
      readonly outcome: Exclude<PaymentOutcome, 'orderless'> | 'already_recorded';
      readonly order: Order;
      readonly payment: Payment;
    }
  /** A verified payment for an order that does not exist: it is on the work list. */
  | { readonly outcome: 'orderless'; readonly payment: Payment }
  | PayRefusal;

interface PayRefusal {
  readonly outcome:
    | 'order_not_found'
    | 'payment_conflict'
    | 'idempotency_key_reused'
    | 'idempotency_in_progress';
}

/** A request and the ids drawn before the first try, so that a retry knows its own payment again. */
interface Draft {
  readonly request: PayRequest;
  readonly id: string;
  readonly refundId: string;
}

const lockOrders: Statement = {
  name: 'pay_lock_orders',
  text: `
    select id, status, cancel_reason as "cancelReason", amount, currency, channel, payment_method as "paymentMethod"
    from orders
    where id = any ($1::uuid[])
    order by id
    for no key update`,
};

interface LockedOrder {
  readonly id: string;
  readonly status: string;
  readonly cancelReason: string | null;
  readonly amount: number;
  readonly currency: string;
  readonly channel: string;
  readonly paymentMethod: string;
}

const readCaptures: Statement = {
  name: 'pay_read_captures',
  // One by one, by `lateral` and `limit`: see `readOrders`.
  text: `
    select
      p.id, p.order_id as "orderId", p.provider, p.provider_payment_id as "providerPaymentId", p.outcome, p.verified,
      p.amount, p.currency, p.listed_for as "listedFor", p.goes_back as "goesBack",
      p.resolution is not null as "isResolved"
    from (
      select distinct provider, provider_payment_id
      from unnest($1::text[], $2::text[]) as told (provider, provider_payment_id)
      order by provider, provider_payment_id
    ) as told
    cross join lateral (
      select * from payments p
      where p.provider = told.provider and p.provider_payment_id = told.provider_payment_id
      limit 1
      -- What stands without an order is kept still by no order's lock.
      for no key update
    ) as p`,
};

/** A payment as far as it decides about another telling of the same capture. */
interface Capture {
  readonly id: string;
  readonly orderId: string | null;
  readonly provider: string;
  readonly providerPaymentId: string;
  readonly outcome: PaymentOutcome;
  readonly verified: boolean;
  readonly amount: number;
  readonly currency: string;
  readonly listedFor: ListReason | null;
  readonly goesBack: boolean;
  readonly isResolved: boolean;
}

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
        listed_for = "listedFor"
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
    ), counted as (
      -- As where an attempt is closed: nobody waits for a provider any more.
      update orders o set
        open_attempt_count = o.open_attempt_count - open_count,
        closing_at = case when o.open_attempt_count > open_count or o.expire_at <= clock.at then o.closing_at end,
        check_at = case
          when o.status <> 'pending_payment' or o.open_attempt_count > open_count then o.check_at
          else greatest(o.expire_at, clock.at)
        end
      from (select order_id, count(*) as open_count from locked where was_open group by order_id) as n
      cross join clock
      where o.id = n.order_id
    )
    insert into events (order_id, type, actor, at, data)
    select order_id, 'attempt.paid', actor, clock.at, jsonb_build_object('attemptId', id, 'provider', provider)
    from locked cross join clock
    order by id`,
};

const lockReinstatable: Statement = {
  name: 'pay_lock_reinstatable',
  text: `
    with wanted as materialized (
      select id, items from orders where id = any ($1::uuid[])
    ), locked as materialized (
      select s.sku, s.on_hand as "onHand", s.held from stock s
      where s.sku in (
        select item.sku from wanted cross join lateral jsonb_to_recordset(wanted.items) as item (sku text)
      )
      order by s.sku
      for no key update
    )
    select
      (select coalesce(jsonb_agg(wanted), '[]') from wanted) as orders,
      (select coalesce(jsonb_agg(locked), '[]') from locked) as stock`,
};

interface Reinstatable {
  readonly orders: readonly { readonly id: string; readonly items: readonly OrderItem[] }[];
  readonly stock: readonly ({ readonly sku: string } & StockLevel)[];
}

/**
 * Records payments. The first that fits a pending order pays it; one that is late goes the way of the order's policy; every
 * other goes back, or waits on the work list.
 *
 * @param options.lateMoney the policy of an order
 */
export function createPay(options: {
  database: Database;
  lateMoney: (order: { channel: string; paymentMethod: string }) => LateMoney;
}): (request: PayRequest) => Promise<PayAnswer> {
  const { database, lateMoney } = options;
  const batches: Batcher<Draft, PayAnswer> = groupCommit({
    database,
    commit: (tx, drafts, retry) => commitPayments(tx, drafts, retry, lateMoney),
    maxSize: 200,
    maxConcurrent: 2,
  });
  return (request) => {
    const draft: Draft = { request, id: uuidv7(), refundId: uuidv7() };
    return awaitTwin(() => batches.submit(draft));
  };
}

async function commitPayments(
  tx: Transaction,
  drafts: readonly Draft[],
  retry: boolean,
  lateMoney: (order: LockedOrder) => LateMoney,
): Promise<readonly PayAnswer[]> {
  const requests = drafts.map(({ request }) => request);
  const claiming = claimKeys(tx, requests);
  const locking = retry ? withoutTwins(requests, await claiming) : requests;
  // In this order: the captures are read after the locks of their orders were had.
  const [claims, orders, captures] = await Promise.all([
    claiming,
    tx.query<LockedOrder>(lockOrders, [[...new Set(locking.flatMap(({ orderId }) => orderId ?? []))]]),
    tx.query<Capture>(readCaptures, [
      requests.map(({ provider }) => provider),
      requests.map(({ providerPaymentId }) => providerPaymentId),
    ]),
  ]);
  const shelf = await lockShelf(tx, orders, requests, lateMoney);
  const decide = (order: LockedOrder, request: PayRequest): Decision => {
    const decision = decidePayment(order, request, lateMoney(order));
    if (decision.does !== 'reinstate') return decision;
    if (shelf.take(order.id)) return { ...decision, outcome: 'paid' };
    return { outcome: 'late', ...wayBack(request.verified, 'refund') };
  };
  const verdicts = decideBatch(drafts, claims, orders, captures, decide);
  const ended = new Map<string, Pick<PayRequest, 'attemptId' | 'orderId' | 'provider' | 'actor'>>();
  for (const [n, { kind }] of verdicts.entries()) {
    const request = requests[n];
    if (request?.attemptId === undefined || (kind !== 'record' && kind !== 'repeat')) continue;
    // Several notices of one capture end its attempt once.
    const { attemptId, orderId, provider, actor } = request;
    ended.set(attemptId, { attemptId, orderId, provider, actor });
  }
  const keys = verdicts.flatMap((verdict, n): KeptKey[] => {
    const idempotency = requests[n]?.idempotency;
    if (verdict.kind === 'refuse' || verdict.kind === 'replay' || idempotency === undefined) return [];
    const { orderId, paymentId, outcome } = verdict;
    return orderId === null ? [] : [keep(idempotency, { orderId, paymentId, outcome })];
  });
  const answered = verdicts.filter((verdict) => verdict.kind !== 'refuse');
  // Sent together, run in this order: the answers are read as the writes left them.
  const recording = Promise.all([
    ended.size === 0 ? undefined : tx.query(endPaidAttempts, [JSON.stringify([...ended.values()])]),
    record(tx, verdicts, keys),
    readOrders(
      tx,
      answered.flatMap(({ orderId }) => orderId ?? []),
    ),
    readPayments(
      tx,
      answered.map(({ paymentId }) => paymentId),
    ),
  ]);
  tx.commit();
  const [, , orderById, paymentById] = await recording;
  return verdicts.map((verdict): PayAnswer => {
    if (verdict.kind === 'refuse') return { outcome: verdict.outcome };
    const { outcome } = verdict;
    const order = orderById.get(verdict.orderId ?? '');
    const payment = paymentById.get(verdict.paymentId);
    if (payment !== undefined && (outcome === 'orderless' || payment.orderId === null))
      return { outcome: 'orderless', payment };
    if (order === undefined || payment === undefined || outcome === 'orderless') {
      // A key that was kept lately may name an order that was removed since.
      if (verdict.kind === 'replay') return { outcome: 'order_not_found' };
      throw new Error('a recorded payment was not found again');
    }
    return { outcome, order, payment };
  });
}

/** The stock of orders that may be reinstated. */
interface Shelf {
  /** Takes what an order needs, if all of it is there. */
  take(orderId: string): boolean;
}

/** Locks the stock of the orders that some of the payments may reinstate. Mostly there are none. */
async function lockShelf(
  tx: Transaction,
  orders: readonly LockedOrder[],
  requests: readonly PayRequest[],
  lateMoney: (order: LockedOrder) => LateMoney,
): Promise<Shelf> {
  const byId = new Map(orders.map((order) => [order.id, order]));
  const ids = requests.flatMap((request) => {
    const order = byId.get(request.orderId ?? '');
    if (order?.status !== 'cancelled') return [];
    return decidePayment(order, request, lateMoney(order)).does === 'reinstate' ? [order.id] : [];
  });
  if (ids.length === 0) return { take: () => false };
  const [found] = await tx.query<Reinstatable>(lockReinstatable, [ids]);
  if (found === undefined) throw new Error('stock could not be read');
  const itemsById = new Map(found.orders.map(({ id, items }) => [id, items]));
  const levels = new Map(found.stock.map(({ sku, ...level }): [string, StockLevel] => [sku, level]));
  return {
    take(orderId) {
      const items = itemsById.get(orderId) ?? [];
      const { allocations, holds } = allocate(levels, [items]);
      if (items.length === 0 || allocations[0]?.outcome !== 'held') return false;
      for (const [sku, quantity] of holds) {
        const { onHand = null, held = 0 } = levels.get(sku) ?? {};
        levels.set(sku, { onHand, held: held + quantity });
      }
      return true;
    },
  };
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
function record(tx: Transaction, verdicts: readonly Verdict[], keys: readonly KeptKey[]): Promise<unknown> {
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

/** What to do about one payment of a batch, and what to answer. */
type Verdict = (
  | { readonly kind: 'refuse'; readonly outcome: PayRefusal['outcome'] }
  | Recorded
  | ({ readonly kind: 'repeat' | 'replay'; readonly outcome: PaymentOutcome | 'already_recorded' } & Subject)
) & { readonly amend?: Amendment };

/** A payment that is written. `isRestated`: over the same capture, told before by somebody who was not sure. */
type Recorded = {
  readonly kind: 'record';
  readonly draft: Draft;
  readonly isRestated: boolean;
} & Decision &
  Subject;

interface Subject {
  readonly orderId: string | null;
  readonly paymentId: string;
}

/** What a provider's word changes about a payment that somebody else told of before. */
type Amendment = Pick<Capture, 'id' | 'verified' | 'amount' | 'currency'> & {
  readonly listedFor: 'restated' | 'conflict' | null;
  readonly actor: string;
};

/** Decides the payments of a batch one after the other, each seeing what those before it did. */
function decideBatch(
  drafts: readonly Draft[],
  claims: readonly Claim[],
  lockedOrders: readonly LockedOrder[],
  recorded: readonly Capture[],
  decide: (order: LockedOrder, request: PayRequest) => Decision,
): readonly Verdict[] {
  const orders = new Map(lockedOrders.map((order) => [order.id, order]));
  const captures = new Map(recorded.map((capture) => [identity(capture), capture]));

  return drafts.map((draft, n): Verdict => {
    const { id, request } = draft;
    const claim = claims[n];
    if (claim?.claim === 'reused') return { kind: 'refuse', outcome: 'idempotency_key_reused' };
    if (claim?.claim === 'in_progress') return { kind: 'refuse', outcome: 'idempotency_in_progress' };
    if (claim?.claim === 'replay') return replay(claim.answer);
    const order = orders.get(request.orderId ?? '');
    if (order === undefined && !request.verified) return { kind: 'refuse', outcome: 'order_not_found' };

    const earlier = captures.get(identity(request));
    const isRestated = earlier !== undefined && earlier.id !== id && isDoubtful(earlier, request, order);
    if (earlier !== undefined && !isRestated) {
      const repeat = answerRepeat(draft, earlier, order);
      if (repeat.amend !== undefined) captures.set(identity(request), { ...earlier, ...known(repeat.amend) });
      return repeat;
    }
    const decision: Decision =
      order === undefined
        ? { outcome: 'orderless', does: 'list', listedFor: 'orderless' }
        : decide(order, request);
    const subject = { orderId: order?.id ?? null, paymentId: earlier?.id ?? id };
    const { provider, providerPaymentId, amount, currency, verified } = request;
    const { outcome } = decision;
    captures.set(identity(request), {
      id: subject.paymentId,
      orderId: subject.orderId,
      provider,
      providerPaymentId,
      outcome,
      verified,
      amount,
      currency,
      listedFor: decision.listedFor,
      goesBack: decision.does === 'refund',
      isResolved: false,
    });
    if (order !== undefined && (decision.does === 'pay' || decision.does === 'reinstate'))
      orders.set(order.id, { ...order, status: 'paid', cancelReason: null });
    return { kind: 'record', draft, isRestated, ...decision, ...subject };
  });
}

/** What is known of a capture by what amended it. What lists it asks anew, whoever has decided. */
function known({ listedFor, ...amended }: Amendment): Partial<Capture> {
  return listedFor === null ? amended : { ...amended, listedFor, isResolved: false };
}

/**
 * Whether a capture that was told before is to be decided anew: nobody has decided about it, it paid nothing, and now the
 * provider itself tells of it, or tells which order it was for.
 */
function isDoubtful(earlier: Capture, request: PayRequest, order: LockedOrder | undefined): boolean {
  if (!request.verified || isDecided(earlier) || earlier.outcome === 'paid') return false;
  if (earlier.orderId === null) return order !== undefined;
  return !earlier.verified && earlier.orderId === request.orderId;
}

/** A person decided about it, or is to decide about its way back. */
const isDecided = ({ isResolved, goesBack }: Capture): boolean => isResolved || goesBack;

/** The answer where the same capture was told before. */
function answerRepeat(draft: Draft, earlier: Capture, order: LockedOrder | undefined): Verdict {
  const { id, request } = draft;
  const { verified, amount, currency, actor } = request;
  // Our own id: the first try was committed although its connection was lost.
  if (earlier.id === id)
    return { kind: 'repeat', outcome: earlier.outcome, orderId: earlier.orderId, paymentId: id };
  const isNews = verified && !earlier.verified;
  if (earlier.orderId !== (order?.id ?? null)) {
    const refusal = { kind: 'refuse', outcome: 'payment_conflict' } as const;
    const { id: paymentId, listedFor, goesBack, ...told } = earlier;
    // What goes back, or went back, is of no order any more.
    if (!isNews || listedFor === 'conflict' || goesBack) return refusal;
    const as = { verified: told.verified, amount: told.amount, currency: told.currency };
    return { ...refusal, amend: { id: paymentId, ...as, listedFor: 'conflict', actor } };
  }
  const repeat = {
    kind: 'repeat',
    outcome: 'already_recorded',
    orderId: earlier.orderId,
    paymentId: earlier.id,
  } as const;
  if (!isNews) return repeat;
  const isSame = amount === earlier.amount && currency === earlier.currency;
  const listedFor = isSame || isDecided(earlier) ? null : 'restated';
  return { ...repeat, amend: { id: earlier.id, verified, amount, currency, listedFor, actor } };
}

const outcomes = new Set<string>(['paid', 'duplicate', 'late', 'amount_mismatch', 'already_recorded']);

function isOutcome(outcome: string): outcome is PaymentOutcome | 'already_recorded' {
  return outcomes.has(outcome);
}

function replay({
  orderId,
  paymentId,
  outcome,
}: {
  orderId: string;
  paymentId: string | null;
  outcome: string;
}): Verdict {
  if (paymentId === null || !isOutcome(outcome))
    throw new Error('an idempotency key of a payment names none');
  return { kind: 'replay', outcome, orderId, paymentId };
}

function identity({ provider, providerPaymentId }: { provider: string; providerPaymentId: string }): string {
  return `${provider}\u001F${providerPaymentId}`;
}
