import type { Claim, IdempotencyKey } from './idempotency.ts';
import type { Decision, ListReason, PaymentOutcome } from './payments.ts';

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

export interface PayRefusal {
  readonly outcome:
    | 'order_not_found'
    | 'payment_conflict'
    | 'idempotency_key_reused'
    | 'idempotency_in_progress';
}

/** A request and the ids drawn before the first try, so that a retry knows its own payment again. */
export interface Draft {
  readonly request: PayRequest;
  readonly id: string;
  readonly refundId: string;
}

/** An order as it stands under its lock, as far as it decides about a payment. */
export interface LockedOrder {
  readonly id: string;
  readonly status: string;
  readonly cancelReason: string | null;
  readonly amount: number;
  readonly currency: string;
  readonly channel: string;
  readonly paymentMethod: string;
}

/** A payment as far as it decides about another telling of the same capture. */
export interface Capture {
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
  /** What a person decided about it. */
  readonly resolution: 'refund' | 'accept' | 'dismiss' | null;
}

/** What to do about one payment of a batch, and what to answer. */
export type Verdict = (
  | { readonly kind: 'refuse'; readonly outcome: PayRefusal['outcome'] }
  | Recorded
  | ({ readonly kind: 'repeat' | 'replay'; readonly outcome: PaymentOutcome | 'already_recorded' } & Subject)
) & { readonly amend?: Amendment };

/** A payment that is written. `isRestated`: over the same capture, told before by somebody who was not sure. */
export type Recorded = {
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
export type Amendment = Pick<Capture, 'id' | 'verified' | 'amount' | 'currency'> & {
  readonly listedFor: 'restated' | 'conflict' | null;
  readonly actor: string;
};

/** Decides the payments of a batch one after the other, each seeing what those before it did. */
export function decideBatch(
  drafts: readonly Draft[],
  claims: readonly Claim[],
  lockedOrders: ReadonlyMap<string, LockedOrder>,
  recorded: readonly Capture[],
  decide: (order: LockedOrder, request: PayRequest) => Decision,
): readonly Verdict[] {
  const orders = new Map(lockedOrders);
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
      resolution: null,
    });
    if (order !== undefined && (decision.does === 'pay' || decision.does === 'reinstate'))
      orders.set(order.id, { ...order, status: 'paid', cancelReason: null });
    return { kind: 'record', draft, isRestated, ...decision, ...subject };
  });
}

/** What is known of a capture by what amended it. What lists it asks anew, whoever has decided. */
function known({ listedFor, ...amended }: Amendment): Partial<Capture> {
  return listedFor === null ? amended : { ...amended, listedFor, resolution: null };
}

/**
 * Whether a capture that was told before is to be decided anew: it paid nothing and goes nowhere, and now the provider itself
 * tells of it, or tells which order it was for. What a person dismissed goes nowhere by itself, but it pays an order that
 * waits for it.
 */
function isDoubtful(earlier: Capture, request: PayRequest, order: LockedOrder | undefined): boolean {
  const { verified, amount, currency } = request;
  if (!verified || earlier.outcome === 'paid' || earlier.goesBack) return false;
  if (earlier.orderId === null) return earlier.resolution === null && order !== undefined;
  const isWaitedFor =
    order?.status === 'pending_payment' && order.amount === amount && order.currency === currency;
  const isOpen = earlier.resolution === null || (earlier.resolution === 'dismiss' && isWaitedFor);
  return !earlier.verified && earlier.orderId === request.orderId && isOpen;
}

/** Whether a person must know what a provider says of a capture that only the shop had told of. */
function mustBeTold({ resolution, goesBack, ...was }: Capture, now: PayRequest): boolean {
  if (goesBack) return false;
  return resolution === 'dismiss' || now.amount !== was.amount || now.currency !== was.currency;
}

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
  const listedFor = mustBeTold(earlier, request) ? 'restated' : null;
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
