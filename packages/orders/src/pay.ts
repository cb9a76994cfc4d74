import type { Batcher, Database, Statement, Transaction } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
import { readOrders } from './find.ts';
import { groupCommit } from './group-commit.ts';
import { awaitTwin, claimKeys, keep, withoutTwins, type KeptKey } from './idempotency.ts';
import type { Order } from './order.ts';
import {
  decideBatch,
  type Capture,
  type Draft,
  type LockedOrder,
  type PayRefusal,
  type PayRequest,
} from './pay-decide.ts';
import { endPaid, record } from './pay-record.ts';
import {
  decidePayment,
  readPayments,
  wayBack,
  type Decision,
  type LateMoney,
  type Payment,
  type PaymentOutcome,
} from './payments.ts';
import { lockShelf } from './shelf.ts';

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

const lockOrders: Statement = {
  name: 'pay_lock_orders',
  text: `
    select id, status, cancel_reason as "cancelReason", amount, currency, channel, payment_method as "paymentMethod"
    from orders
    where id = any ($1::uuid[])
    order by id
    for no key update`,
};

const readCaptures: Statement = {
  name: 'pay_read_captures',
  // One by one, by `lateral` and `limit`: see `readOrders`.
  text: `
    select
      p.id, p.order_id as "orderId", p.provider, p.provider_payment_id as "providerPaymentId", p.outcome, p.verified,
      p.amount, p.currency, p.listed_for as "listedFor", p.goes_back as "goesBack",
      p.resolution
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
  const orderById = new Map(orders.map((order) => [order.id, order]));
  const policyWish = (order: LockedOrder, request: PayRequest): Decision =>
    decidePayment(order, request, lateMoney(order));
  const lapsed = requests.flatMap((request) => {
    const order = orderById.get(request.orderId ?? '');
    return order?.status === 'cancelled' && policyWish(order, request).does === 'reinstate' ? [order.id] : [];
  });
  const pending = orders.flatMap(({ id, status }) => (status === 'pending_payment' ? [id] : []));
  // Mostly there are none.
  const shelf = await lockShelf(tx, lapsed, pending);
  const decide = (order: LockedOrder, request: PayRequest): Decision => {
    const decision = policyWish(order, request);
    if (decision.does !== 'reinstate') return decision;
    if (shelf.take(order.id)) return { ...decision, outcome: 'paid' };
    return { outcome: 'late', ...wayBack(request.verified, 'refund') };
  };
  const verdicts = decideBatch(drafts, claims, orderById, captures, decide);
  const keys = verdicts.flatMap((verdict, n): KeptKey[] => {
    const idempotency = requests[n]?.idempotency;
    if (verdict.kind === 'refuse' || verdict.kind === 'replay' || idempotency === undefined) return [];
    const { orderId, paymentId, outcome } = verdict;
    return orderId === null ? [] : [keep(idempotency, { orderId, paymentId, outcome })];
  });
  const answered = verdicts.filter((verdict) => verdict.kind !== 'refuse');
  // Sent together, run in this order: the answers are read as the writes left them.
  const recording = Promise.all([
    endPaid(tx, drafts, verdicts),
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
  const [, , answeredOrders, payments] = await recording;
  return verdicts.map((verdict): PayAnswer => {
    if (verdict.kind === 'refuse') return { outcome: verdict.outcome };
    const { outcome } = verdict;
    const order = answeredOrders.get(verdict.orderId ?? '');
    const payment = payments.get(verdict.paymentId);
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
