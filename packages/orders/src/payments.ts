import type { Queryable, Statement } from '@lapse/runtime';

/** What a payment did: paid its order, or why it could not. */
export type PaymentOutcome = 'paid' | 'duplicate' | 'late' | 'amount_mismatch';

/** Money that was reported to us. */
export interface Payment {
  /** UUIDv7. */
  readonly id: string;
  readonly orderId: string;
  readonly provider: string;
  /** The provider's id of the capture; one payment for each. */
  readonly providerPaymentId: string;
  /** Minor units. */
  readonly amount: number;
  /** ISO 4217. */
  readonly currency: string;
  readonly outcome: PaymentOutcome;
  /** Whether a provider's adapter checked it. */
  readonly verified: boolean;
  readonly recordedAt: Date;
  /** Since when a person must decide about it; null where it paid its order. */
  readonly listedAt: Date | null;
}

const paymentColumns = `
  p.id, p.order_id as "orderId", p.provider, p.provider_payment_id as "providerPaymentId", p.amount, p.currency,
  p.outcome, p.verified, p.recorded_at as "recordedAt", p.listed_at as "listedAt"`;

/**
 * Decides what a payment that was not seen before does to an order.
 *
 * @param order the order as it stands under its lock
 * @param money what the payment brought
 */
export function decidePayment(
  order: { readonly status: string; readonly amount: number; readonly currency: string },
  money: { readonly amount: number; readonly currency: string },
): PaymentOutcome {
  if (order.status === 'cancelled') return 'late';
  if (order.status === 'paid') return 'duplicate';
  const exact = money.amount === order.amount && money.currency === order.currency;
  return exact ? 'paid' : 'amount_mismatch';
}

const readByIds: Statement = {
  name: 'read_payments',
  // One by one, by `lateral` and `limit`: see `readOrders`.
  text: `
    select ${paymentColumns} from unnest($1::uuid[]) as wanted (id)
    cross join lateral (select * from payments where payments.id = wanted.id limit 1) as p`,
};

/** Reads payments by id. */
export async function readPayments(db: Queryable, ids: readonly string[]): Promise<Map<string, Payment>> {
  const rows = await db.query<Payment>(readByIds, [ids]);
  return new Map(rows.map((payment) => [payment.id, payment]));
}

const readOfOrder: Statement = {
  name: 'read_payments_of_order',
  text: `select ${paymentColumns} from payments p where p.order_id = $1 order by p.id`,
};

/** The payments that were reported for an order, oldest first. */
export function readOrderPayments(db: Queryable, orderId: string): Promise<Payment[]> {
  return db.query<Payment>(readOfOrder, [orderId]);
}

const readWorkList: Statement = {
  name: 'read_work_list',
  text: `
    select ${paymentColumns} from payments p
    where p.listed_at is not null and (p.listed_at, p.id) > ($1::timestamptz, $2::uuid)
    order by p.listed_at, p.id
    limit $3`,
};

/** Where a page of the work list begins: behind this payment. */
export interface WorkListCursor {
  readonly listedAt: Date;
  readonly id: string;
}

/** Payments that a person must decide about, those that wait longest first. */
export function listWork(db: Queryable, page: { after?: WorkListCursor; limit: number }): Promise<Payment[]> {
  const { after = { listedAt: new Date(0), id: '00000000-0000-0000-0000-000000000000' }, limit } = page;
  return db.query<Payment>(readWorkList, [after.listedAt, after.id, limit]);
}
