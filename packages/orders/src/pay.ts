import type { Batcher, Database, Statement, Transaction } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
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
import type { Order } from './order.ts';
import { decidePayment, readPayments, type Payment, type PaymentOutcome } from './payments.ts';

/** A payment that somebody reports. */
export interface PayRequest {
  readonly orderId: string;
  readonly provider: string;
  readonly providerPaymentId: string;
  /** Minor units. */
  readonly amount: number;
  readonly currency: string;
  /** Whether a provider's adapter checked it. */
  readonly verified: boolean;
  readonly actor: string;
  readonly idempotency?: IdempotencyKey | undefined;
}

/** What became of a payment. `already_recorded`: this capture was told for this order before. */
export type PayAnswer =
  | {
      readonly outcome: PaymentOutcome | 'already_recorded';
      readonly order: Order;
      readonly payment: Payment;
    }
  | PayRefusal;

interface PayRefusal {
  readonly outcome:
    | 'order_not_found'
    | 'payment_conflict'
    | 'idempotency_key_reused'
    | 'idempotency_in_progress';
}

/** A request and the id drawn for its payment before the first try, so that a retry knows its own payment again. */
interface Draft {
  readonly request: PayRequest;
  readonly id: string;
}

const lockOrders: Statement = {
  name: 'pay_lock_orders',
  text: `
    select id, status, amount, currency from orders
    where id = any ($1::uuid[])
    order by id
    for no key update`,
};

interface LockedOrder {
  readonly id: string;
  readonly status: string;
  readonly amount: number;
  readonly currency: string;
}

const readCaptures: Statement = {
  name: 'pay_read_captures',
  // One by one, by `lateral` and `limit`: see `readOrders`.
  text: `
    select p.id, p.order_id as "orderId", p.provider, p.provider_payment_id as "providerPaymentId", p.outcome
    from unnest($1::text[], $2::text[]) as told (provider, provider_payment_id)
    cross join lateral (
      select * from payments p
      where p.provider = told.provider and p.provider_payment_id = told.provider_payment_id
      limit 1
    ) as p`,
};

/** A payment as far as it decides about another telling of the same capture. */
interface Capture {
  readonly id: string;
  readonly orderId: string;
  readonly provider: string;
  readonly providerPaymentId: string;
  readonly outcome: PaymentOutcome;
}

const recordPayments: Statement = {
  name: 'pay_record_payments',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), told as materialized (
      select * from jsonb_to_recordset($1::jsonb) as told (
        n int, id uuid, "orderId" uuid, provider text, "providerPaymentId" text, amount bigint, currency text,
        verified boolean, outcome text, actor text
      )
    ), recorded as (
      insert into payments (
        id, order_id, provider, provider_payment_id, amount, currency, outcome, verified, recorded_at, listed_at
      )
      select
        id, "orderId", provider, "providerPaymentId", amount, currency, outcome, verified, clock.at,
        case when outcome <> 'paid' then clock.at end
      from told cross join clock
      -- Two batches that tell of the same captures meet them in the same order.
      order by provider, "providerPaymentId"
    ), paid as (
      -- The rows are locked already, in order, by an earlier statement.
      update orders o set status = 'paid', paid_at = clock.at
      from told cross join clock
      where o.id = told."orderId" and told.outcome = 'paid' and o.status = 'pending_payment'
      returning o.items
    ), sold as materialized (
      select item.sku, sum(item.quantity)::bigint as quantity
      from paid cross join lateral jsonb_to_recordset(paid.items) as item (sku text, quantity bigint)
      group by item.sku
    ), locked_stock as materialized (
      select sku from stock where sku in (select sku from sold) order by sku for no key update
    ), moved as (
      update stock s
      set on_hand = s.on_hand - sold.quantity, held = s.held - sold.quantity, updated_at = clock.at
      from sold join locked_stock using (sku) cross join clock
      where s.sku = sold.sku
    ), logged as (
      insert into events (order_id, type, actor, at, data)
      select
        "orderId", case outcome when 'paid' then 'order.paid' else 'payment.listed' end, actor, clock.at,
        jsonb_build_object(
          'paymentId', id, 'outcome', outcome, 'provider', provider, 'providerPaymentId', "providerPaymentId",
          'amount', amount, 'currency', currency
        )
      from told cross join clock
      order by n
    ), ${keepKeys('$2')}
    select at from clock`,
};

/** Records payments. The first that fits a pending order pays it; every other waits on the work list. */
export function createPay(options: { database: Database }): (request: PayRequest) => Promise<PayAnswer> {
  const batches: Batcher<Draft, PayAnswer> = groupCommit({
    database: options.database,
    commit: commitPayments,
    maxSize: 200,
    maxConcurrent: 2,
  });
  return (request) => {
    const draft: Draft = { request, id: uuidv7() };
    return awaitTwin(() => batches.submit(draft));
  };
}

async function commitPayments(
  tx: Transaction,
  drafts: readonly Draft[],
  retry: boolean,
): Promise<readonly PayAnswer[]> {
  const requests = drafts.map(({ request }) => request);
  const claiming = claimKeys(tx, requests);
  const locking = retry ? withoutTwins(requests, await claiming) : requests;
  // In this order: the captures are read after the locks of their orders were had.
  const [claims, orders, captures] = await Promise.all([
    claiming,
    tx.query<LockedOrder>(lockOrders, [[...new Set(locking.map(({ orderId }) => orderId))]]),
    tx.query<Capture>(readCaptures, [
      requests.map(({ provider }) => provider),
      requests.map(({ providerPaymentId }) => providerPaymentId),
    ]),
  ]);
  const verdicts = decideBatch(drafts, claims, orders, captures);
  const told = verdicts.filter((verdict) => verdict.kind === 'record');
  const keys = verdicts.flatMap((verdict, n): KeptKey[] => {
    const idempotency = requests[n]?.idempotency;
    if (verdict.kind === 'refuse' || verdict.kind === 'replay' || idempotency === undefined) return [];
    const { orderId, paymentId, outcome } = verdict;
    return [keep(idempotency, { orderId, paymentId, outcome })];
  });
  const answered = verdicts.filter((verdict) => verdict.kind !== 'refuse');
  // Sent together, run in this order: the answers are read as the write left them.
  const recording = Promise.all([
    told.length === 0 && keys.length === 0
      ? undefined
      : tx.query(recordPayments, [rowsOf(told), JSON.stringify(keys)]),
    readOrders(
      tx,
      answered.map(({ orderId }) => orderId),
    ),
    readPayments(
      tx,
      answered.map(({ paymentId }) => paymentId),
    ),
  ]);
  tx.commit();
  const [, orderById, paymentById] = await recording;
  return verdicts.map((verdict): PayAnswer => {
    if (verdict.kind === 'refuse') return { outcome: verdict.outcome };
    const order = orderById.get(verdict.orderId);
    const payment = paymentById.get(verdict.paymentId);
    if (order === undefined || payment === undefined) {
      // A key that was kept lately may name an order that was removed since.
      if (verdict.kind === 'replay') return { outcome: 'order_not_found' };
      throw new Error('a recorded payment was not found again');
    }
    return { outcome: verdict.outcome, order, payment };
  });
}

function rowsOf(told: readonly { readonly draft: Draft; readonly outcome: string }[]): string {
  return JSON.stringify(
    told.map(({ draft: { request, id }, outcome }, n) => {
      const { idempotency: _, ...fields } = request;
      return { n, id, outcome, ...fields };
    }),
  );
}

/** What to do about one payment of a batch, and what to answer. */
type Verdict =
  | { readonly kind: 'refuse'; readonly outcome: PayRefusal['outcome'] }
  | ({ readonly kind: 'record'; readonly draft: Draft; readonly outcome: PaymentOutcome } & Subject)
  | ({ readonly kind: 'repeat' | 'replay'; readonly outcome: PaymentOutcome | 'already_recorded' } & Subject);

interface Subject {
  readonly orderId: string;
  readonly paymentId: string;
}

/** Decides the payments of a batch one after the other, each seeing what those before it did. */
function decideBatch(
  drafts: readonly Draft[],
  claims: readonly Claim[],
  lockedOrders: readonly LockedOrder[],
  recorded: readonly Capture[],
): readonly Verdict[] {
  const orders = new Map(lockedOrders.map((order) => [order.id, order]));
  const captures = new Map(recorded.map((capture) => [identity(capture), capture]));

  return drafts.map((draft, n): Verdict => {
    const { id, request } = draft;
    const { orderId, provider, providerPaymentId } = request;
    const claim = claims[n];
    if (claim?.claim === 'reused') return { kind: 'refuse', outcome: 'idempotency_key_reused' };
    if (claim?.claim === 'in_progress') return { kind: 'refuse', outcome: 'idempotency_in_progress' };
    if (claim?.claim === 'replay') return replay(claim.answer);
    const order = orders.get(orderId);
    if (order === undefined) return { kind: 'refuse', outcome: 'order_not_found' };

    const earlier = captures.get(identity(request));
    if (earlier === undefined) {
      const outcome = decidePayment(order, request);
      captures.set(identity(request), { id, orderId, provider, providerPaymentId, outcome });
      if (outcome === 'paid') orders.set(orderId, { ...order, status: 'paid' });
      return { kind: 'record', draft, outcome, orderId, paymentId: id };
    }
    if (earlier.orderId !== orderId) return { kind: 'refuse', outcome: 'payment_conflict' };
    // Our own id: the first try was committed although its connection was lost.
    const outcome = earlier.id === id ? earlier.outcome : 'already_recorded';
    return { kind: 'repeat', outcome, orderId, paymentId: earlier.id };
  });
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
