import type { Order, Orders, PayAnswer, Payment, PayRequest } from '@lapse/orders';
import { transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';

import { claimKey, lockOrder, readKept, readOrder } from './plain-keys.ts';

const paymentFields = `
  id, order_id as "orderId", provider, provider_payment_id as "providerPaymentId", amount, currency, outcome, verified,
  recorded_at as "recordedAt", listed_at as "listedAt"`;

const selectCapture: Statement = {
  name: 'plain_select_capture',
  text: `select ${paymentFields} from payments where provider = $1 and provider_payment_id = $2`,
};

const selectPayment: Statement = {
  name: 'plain_select_payment',
  text: `select ${paymentFields} from payments where id = $1`,
};

const insertPayment: Statement = {
  name: 'plain_insert_payment',
  text: `
    insert into payments (
      id, order_id, provider, provider_payment_id, amount, currency, outcome, verified, recorded_at, listed_at
    )
    select $1, $2, $3, $4, $5, $6, $7, $8, clock.at, case when $7 <> 'paid' then clock.at end
    from (select date_trunc('milliseconds', clock_timestamp()) as at) as clock
    returning ${paymentFields}`,
};

const markPaid: Statement = {
  name: 'plain_mark_paid',
  text: `update orders set status = 'paid', paid_at = date_trunc('milliseconds', clock_timestamp()) where id = $1
    returning paid_at as "paidAt"`,
};

const logEvent: Statement = {
  name: 'plain_log_payment',
  text: `insert into events (order_id, type, actor, at, data) values ($1, $2, $3, clock_timestamp(), $4)`,
};

const sellStock: Statement = {
  name: 'plain_sell_stock',
  text: `
    with sold as (
      select * from unnest($1::text[], $2::bigint[]) as sold (sku, quantity)
    ), locked as materialized (
      select sku from stock where sku = any ($1::text[]) order by sku for no key update
    )
    update stock s
    set on_hand = s.on_hand - sold.quantity, held = s.held - sold.quantity, updated_at = clock_timestamp()
    from sold join locked using (sku)
    where s.sku = sold.sku`,
};

/** Payments, one transaction each. */
export function createPlainPay(database: Database): Orders['pay'] {
  return (request) => transaction(database, (tx) => pay(tx, uuidv7(), request));
}

async function pay(tx: Queryable, paymentId: string, request: PayRequest): Promise<PayAnswer> {
  const { orderId, provider, providerPaymentId, idempotency } = request;
  if (orderId === null) return { outcome: 'order_not_found' };
  const [order, [recorded]] = await Promise.all([
    lockOrder(tx, orderId),
    tx.query<Payment>(selectCapture, [provider, providerPaymentId]),
  ]);
  if (order === undefined) return { outcome: 'order_not_found' };
  if (recorded !== undefined && recorded.orderId !== orderId) return { outcome: 'payment_conflict' };
  const outcome = decide(order, request);
  const kept =
    recorded === undefined
      ? { orderId, paymentId, outcome }
      : { orderId, paymentId: recorded.id, outcome: 'already_recorded' };
  if (idempotency !== undefined && !(await claimKey(tx, idempotency, kept))) return replay(tx, idempotency);
  if (recorded !== undefined) return { outcome: 'already_recorded', order, payment: recorded };
  return record(tx, order, { ...request, paymentId, outcome });
}

function decide(order: Order, { amount, currency }: PayRequest): Payment['outcome'] {
  if (order.status === 'cancelled') return 'late';
  if (order.status === 'paid') return 'duplicate';
  return amount === order.amount && currency === order.currency ? 'paid' : 'amount_mismatch';
}

/** Writes the payment, and where it fits the order what follows from it. The stock's rows are locked last. */
async function record(
  tx: Queryable,
  order: Order,
  told: PayRequest & { paymentId: string; outcome: Payment['outcome'] },
): Promise<PayAnswer> {
  const { paymentId, outcome, orderId, provider, providerPaymentId, amount, currency } = told;
  const isPaid = outcome === 'paid';
  const [[payment], paid] = await Promise.all([
    tx.query<Payment>(insertPayment, [
      paymentId,
      orderId,
      provider,
      providerPaymentId,
      amount,
      currency,
      outcome,
      told.verified,
    ]),
    isPaid ? tx.query<{ paidAt: Date }>(markPaid, [orderId]) : [],
    tx.query(logEvent, [
      orderId,
      isPaid ? 'order.paid' : 'payment.listed',
      told.actor,
      JSON.stringify({ paymentId, outcome, provider, providerPaymentId, amount, currency }),
    ]),
    isPaid
      ? tx.query(sellStock, [order.items.map(({ sku }) => sku), order.items.map(({ quantity }) => quantity)])
      : [],
  ]);
  if (payment === undefined) throw new Error('a payment was not written');
  const [change] = paid;
  if (change === undefined) return { outcome, order, payment };
  return { outcome, order: { ...order, status: 'paid', remainingMs: 0, paidAt: change.paidAt }, payment };
}

async function replay(
  tx: Queryable,
  idempotency: NonNullable<PayRequest['idempotency']>,
): Promise<PayAnswer> {
  const kept = await readKept(tx, idempotency);
  if (kept === 'reused') return { outcome: 'idempotency_key_reused' };
  const [payment] = await tx.query<Payment>(selectPayment, [kept.paymentId]);
  if (payment === undefined) throw new Error('a key names a payment that does not exist');
  return { outcome: payment.outcome, order: await readOrder(tx, kept.orderId), payment };
}
