import type { Queryable, Statement } from '@lapse/runtime';
import { refundColumns, type Refund } from './refund-row.ts';

/**
 * What a payment did: paid its order, or why it could not. `orderless`: a provider took money for an order that does not
 * exist.
 */
export type PaymentOutcome = 'paid' | 'duplicate' | 'late' | 'amount_mismatch' | 'orderless';

/**
 * Why a person must decide about a payment.
 *
 * - `unverified`: nobody but the shop told of it, so nothing goes back by itself
 * - `policy`: the order's policy leaves late money to a person
 * - `orderless`: there is no such order
 * - `restated`: it paid its order by what the shop told, and the provider told another amount later
 * - `conflict`: the provider told that it was for another order
 * - `refund_failed`: the provider refused to return it
 */
export type ListReason = 'unverified' | 'policy' | 'orderless' | 'restated' | 'conflict' | 'refund_failed';

/** Money that was reported to us. */
export interface Payment {
  /** UUIDv7. */
  readonly id: string;
  /** Null: there is no such order. */
  readonly orderId: string | null;
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
  /** Since when a person must decide about it; null where nobody must. */
  readonly listedAt: Date | null;
  readonly listedFor: ListReason | null;
  /** What the person decided, when, who it was, and why. */
  readonly resolution: 'refund' | 'accept' | 'dismiss' | null;
  readonly resolvedAt: Date | null;
  readonly resolvedBy: string | null;
  readonly note: string | null;
  /** Its way back; null where it does not go back. */
  readonly refund: Refund | null;
}

/** SQL: the columns of a payment `p`. */
const paymentColumns = `
  p.id, p.order_id as "orderId", p.provider, p.provider_payment_id as "providerPaymentId", p.amount, p.currency,
  p.outcome, p.verified, p.recorded_at as "recordedAt", p.listed_at as "listedAt", p.listed_for as "listedFor",
  p.resolution, p.resolved_at as "resolvedAt", p.resolved_by as "resolvedBy", p.note`;

/** SQL: a payment's refund, to stand behind `payments p`. One by one, see `readOrders`. */
const itsRefund = `
    left join lateral (
      select ${refundColumns} from refunds r where r.payment_id = p.id limit 1
    ) as r on true`;

const paymentAndRefund = `${paymentColumns}, to_jsonb(r) as refund`;

/** A payment as it is read: instants within JSON are text. */
type PaymentRow = Omit<Payment, 'refund'> & {
  readonly refund:
    | (Omit<Refund, RefundInstant> & { readonly [At in RefundInstant]: InstantText<Refund[At]> })
    | null;
};
type RefundInstant = 'dueAt' | 'sentAt' | 'confirmedAt' | 'failedAt';
type InstantText<At> = At extends Date ? string : null;

function toPayment({ refund, ...payment }: PaymentRow): Payment {
  if (refund === null) return { ...payment, refund };
  const { dueAt, sentAt, confirmedAt, failedAt, ...rest } = refund;
  return {
    ...payment,
    refund: {
      ...rest,
      dueAt: new Date(dueAt),
      sentAt: instant(sentAt),
      confirmedAt: instant(confirmedAt),
      failedAt: instant(failedAt),
    },
  };
}

function instant(text: string | null): Date | null {
  return text === null ? null : new Date(text);
}

/** What late money does, by the order's policy. */
export type LateMoney = 'refund' | 'reinstate' | 'manual';

/**
 * What becomes of a payment: `pay` its order, `reinstate` it if its stock is still there, `refund` the payment, or
 * `list` it for a person.
 */
export interface Decision {
  readonly outcome: PaymentOutcome;
  readonly does: 'pay' | 'reinstate' | 'refund' | 'list';
  /** Where it is listed. */
  readonly listedFor: ListReason | null;
}

/**
 * Decides what a payment that was not seen before does.
 *
 * @param order the order as it stands under its lock
 * @param money what the payment brought. Only what an adapter verified goes back by itself: a report is no proof that
 *   there is money to return
 * @param lateMoney the order's policy
 */
export function decidePayment(
  order: {
    readonly status: string;
    readonly cancelReason: string | null;
    readonly amount: number;
    readonly currency: string;
  },
  money: { readonly amount: number; readonly currency: string; readonly verified: boolean },
  lateMoney: LateMoney,
): Decision {
  const isExact = money.amount === order.amount && money.currency === order.currency;
  if (order.status === 'pending_payment' && isExact) return { outcome: 'paid', does: 'pay', listedFor: null };
  if (lateMoney === 'reinstate' && order.cancelReason === 'payment_timeout' && isExact)
    return { outcome: 'late', does: 'reinstate', listedFor: null };
  return { outcome: whyNot(order.status), ...wayBack(money.verified, lateMoney) };
}

function whyNot(status: string): PaymentOutcome {
  if (status === 'cancelled') return 'late';
  return status === 'paid' ? 'duplicate' : 'amount_mismatch';
}

/** What becomes of money that pays nothing. */
export function wayBack(verified: boolean, lateMoney: LateMoney): Omit<Decision, 'outcome'> {
  if (lateMoney === 'manual') return { does: 'list', listedFor: 'policy' };
  return verified ? { does: 'refund', listedFor: null } : { does: 'list', listedFor: 'unverified' };
}

const readByIds: Statement = {
  name: 'read_payments',
  // One by one, by `lateral` and `limit`: see `readOrders`.
  text: `
    select ${paymentAndRefund} from unnest($1::uuid[]) as wanted (id)
    cross join lateral (select * from payments where payments.id = wanted.id limit 1) as p
    ${itsRefund}`,
};

/** Reads payments by id. */
export async function readPayments(db: Queryable, ids: readonly string[]): Promise<Map<string, Payment>> {
  const rows = await db.query<PaymentRow>(readByIds, [ids]);
  return new Map(rows.map((row) => [row.id, toPayment(row)]));
}

const readOfOrder: Statement = {
  name: 'read_payments_of_order',
  text: `select ${paymentAndRefund} from payments p ${itsRefund} where p.order_id = $1 order by p.id`,
};

/** The payments that were reported for an order, oldest first. */
export async function readOrderPayments(db: Queryable, orderId: string): Promise<Payment[]> {
  return (await db.query<PaymentRow>(readOfOrder, [orderId])).map(toPayment);
}

const readWorkList: Statement = {
  name: 'read_work_list',
  text: `
    select ${paymentAndRefund} from (
      select * from payments p
      where p.listed_at is not null and p.resolved_at is null and (p.listed_at, p.id) > ($1::timestamptz, $2::uuid)
      order by p.listed_at, p.id
      limit $3
    ) as p
    ${itsRefund}
    order by p.listed_at, p.id`,
};

/** Where a page of the work list begins: behind this payment. */
export interface WorkListCursor {
  readonly listedAt: Date;
  readonly id: string;
}

/** Payments that a person must decide about, those that wait longest first. */
export async function listWork(
  db: Queryable,
  page: { after?: WorkListCursor; limit: number },
): Promise<Payment[]> {
  const { after = { listedAt: new Date(0), id: '00000000-0000-0000-0000-000000000000' }, limit } = page;
  return (await db.query<PaymentRow>(readWorkList, [after.listedAt, after.id, limit])).map(toPayment);
}
