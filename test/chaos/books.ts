import type { Order, PaymentAttempt } from '@lapse/client';
import type { Sandbox } from '@lapse/devstack';
import type { Database } from '@lapse/runtime';

type SandboxLedger = ReturnType<Sandbox['ledger']>;

/** An entry in a provider's books, with the provider's name. */
type Of<Entry> = Entry & { readonly provider: string };

/** The books of all payment providers: what they took and returned, whatever anybody was told of it. */
export interface Books {
  readonly attempts: readonly Of<SandboxLedger['attempts'][number]>[];
  readonly captures: readonly Of<SandboxLedger['captures'][number]>[];
  readonly refunds: readonly Of<SandboxLedger['refunds'][number]>[];
  /** Captures that were returned more than once. */
  readonly returnedTwice: readonly string[];
}

/** What became of the calls to the providers, and of their webhooks. */
export interface ProviderCounts {
  readonly calls: number;
  readonly failedCalls: number;
  readonly lostAnswers: number;
  /** Calls that were not of the protocol. */
  readonly wrongCalls: number;
  readonly webhooksTold: number;
  readonly webhooksLost: number;
  readonly webhooksDoubled: number;
  readonly webhooksReordered: number;
  readonly webhooksDelivered: number;
  readonly webhooksGivenUp: number;
}

/** What the rows say about money. */
export interface MoneyRows {
  readonly orders: readonly {
    readonly id: string;
    readonly status: Order['status'];
    readonly cancelReason: Order['cancelReason'];
    readonly amount: number;
    readonly currency: string;
  }[];
  readonly attempts: readonly {
    readonly id: string;
    readonly orderId: string;
    readonly provider: string;
    readonly providerAttemptId: string | null;
  }[];
  readonly payments: readonly {
    readonly orderId: string | null;
    readonly provider: string;
    readonly providerPaymentId: string;
    readonly amount: number;
    readonly currency: string;
    readonly outcome: string;
    readonly verified: boolean;
    /** A person was told and has not decided. */
    readonly isListed: boolean;
  }[];
}

/** Reads them. */
export async function readMoneyRows(database: Database): Promise<MoneyRows> {
  const [orders, attempts, payments] = await Promise.all([
    database.query<MoneyRows['orders'][number]>(
      `select id, status, cancel_reason as "cancelReason", amount, currency from orders`,
    ),
    database.query<MoneyRows['attempts'][number]>(
      `select id, order_id as "orderId", provider, provider_attempt_id as "providerAttemptId"
       from payment_attempts`,
    ),
    database.query<MoneyRows['payments'][number]>(
      `select order_id as "orderId", provider, provider_payment_id as "providerPaymentId", amount, currency, outcome,
         verified, listed_at is not null and resolved_at is null as "isListed"
       from payments`,
    ),
  ]);
  return { orders: orders.rows, attempts: attempts.rows, payments: payments.rows };
}

/** What the rows deny. A sentence for each case. */
export interface LedgerBreaches {
  /** Acknowledged, or taken, and not there. */
  readonly lost: readonly string[];
  /** There, and not as it was told. */
  readonly wrong: readonly string[];
  /** There more than once. */
  readonly duplicated: readonly string[];
}

/**
 * Compares the books of the providers with the rows: every capture is recorded, and bought its order, or went back once,
 * or a person was told. Nothing may be under way any more.
 *
 * @param told the attempts that customers were told of
 */
export function compareBooks(
  books: Books,
  rows: MoneyRows,
  told: readonly Pick<PaymentAttempt, 'id' | 'orderId' | 'provider' | 'providerAttemptId'>[],
): LedgerBreaches {
  const orderById = new Map(rows.orders.map((order) => [order.id, order]));
  const paymentById = new Map(rows.payments.map((payment) => [nameOf(payment), payment]));
  const captureById = new Map(books.captures.map((capture) => [nameOf(capture), capture]));
  const returned = new Set(
    books.refunds.filter(({ status }) => status !== 'failed').map((refund) => nameOf(refund)),
  );
  const lost: string[] = [];
  const wrong: string[] = [];

  for (const [name, capture] of captureById) {
    const payment = paymentById.get(name);
    const order = orderById.get(capture.orderId);
    if (payment === undefined) {
      lost.push(`${name}: taken for order ${capture.orderId}, and not recorded`);
      continue;
    }
    if (payment.orderId !== capture.orderId)
      wrong.push(`${name}: taken for order ${capture.orderId}, recorded for ${payment.orderId ?? 'none'}`);
    if (!isSameMoney(payment, capture))
      wrong.push(`${name}: ${moneyOf(capture)} taken, ${moneyOf(payment)} recorded`);
    const hasBought = payment.outcome === 'paid' && order?.status === 'paid';
    const ends = [hasBought && 'bought', returned.has(name) && 'went back', payment.isListed && 'is listed'];
    const found = ends.filter((end) => end !== false);
    if (found.length !== 1)
      wrong.push(
        `${name}: ${payment.outcome}, order ${order?.status ?? 'unknown'}: ${found.join(' and ') || 'kept for nothing'}`,
      );
    if (order?.cancelReason === 'payment_timeout' && isSameMoney(order, capture))
      wrong.push(`${name}: order ${order.id} was cancelled for time, though all of its money had come`);
  }

  const providers = new Set(books.attempts.map(({ provider }) => provider));
  for (const payment of rows.payments)
    if (payment.verified && providers.has(payment.provider) && !captureById.has(nameOf(payment)))
      wrong.push(`${nameOf(payment)}: recorded, and nobody took it`);

  const attemptById = new Map(rows.attempts.map((attempt) => [attempt.id, attempt]));
  const openedById = new Map(books.attempts.map((attempt) => [attempt.attemptId, attempt]));
  for (const { id, orderId, provider, providerAttemptId } of told) {
    for (const known of [attemptById.get(id), openedById.get(id)]) {
      const isKnown = known?.orderId === orderId && known.providerAttemptId === providerAttemptId;
      if (!isKnown) lost.push(`attempt ${id} at ${provider} was told as ${providerAttemptId ?? 'unnamed'}`);
    }
  }
  for (const { attemptId, orderId, provider, status } of books.attempts) {
    if (!attemptById.has(attemptId)) lost.push(`attempt ${attemptId} is open at ${provider} only`);
    if (
      (status === 'open' || status === 'processing') &&
      orderById.get(orderId)?.status !== 'pending_payment'
    )
      wrong.push(`attempt ${attemptId} of settled order ${orderId} is still ${status} at ${provider}`);
  }
  return { lost, wrong, duplicated: books.returnedTwice.map((id) => `${id}: returned more than once`) };
}

/** The books of providers that nobody has used. */
export const emptyBooks: Books = { attempts: [], captures: [], refunds: [], returnedTwice: [] };

interface Money {
  readonly amount: number;
  readonly currency: string;
}

function isSameMoney(one: Money, other: Money): boolean {
  return one.amount === other.amount && one.currency === other.currency;
}

function moneyOf({ amount, currency }: Money): string {
  return `${amount} ${currency}`;
}

function nameOf(payment: { readonly provider: string; readonly providerPaymentId: string }): string {
  return `${payment.provider} ${payment.providerPaymentId}`;
}
