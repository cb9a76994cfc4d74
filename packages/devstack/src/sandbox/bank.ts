import { randomUUID } from 'node:crypto';
import type { SandboxBehaviour } from './behaviour.ts';
import type { Tasks } from './tasks.ts';

/** Money that the sandbox took. */
export interface SandboxCapture {
  readonly providerPaymentId: string;
  readonly attemptId: string;
  readonly orderId: string;
  readonly amount: number;
  readonly currency: string;
}

/** An attempt as the sandbox has it. */
export interface SandboxAttempt {
  readonly attemptId: string;
  readonly orderId: string;
  readonly providerAttemptId: string;
  readonly amount: number;
  readonly currency: string;
  readonly handOff: 'url' | 'client_secret';
  readonly returnUrl: string | null;
  readonly status: 'open' | 'closed' | 'processing' | 'paid';
  readonly capture: SandboxCapture | null;
}

/** A refund as the sandbox has it. */
export interface SandboxRefund {
  readonly refundId: string;
  readonly providerRefundId: string;
  readonly providerPaymentId: string;
  readonly amount: number;
  readonly currency: string;
  readonly status: 'sent' | 'confirmed' | 'failed';
}

/** The sandbox's own books, in the order of what happened: the truth to compare another one's with. */
export interface SandboxLedger {
  readonly attempts: readonly SandboxAttempt[];
  readonly captures: readonly SandboxCapture[];
  readonly refunds: readonly SandboxRefund[];
  /** Captures that were returned more than once, by their `providerPaymentId`. It does not refuse to. */
  readonly returnedTwice: readonly string[];
}

/** What a customer found who wanted to pay. */
export type SandboxPayment =
  | { readonly outcome: 'paid'; readonly capture: SandboxCapture }
  | { readonly outcome: 'closed' | 'processing' };

/** An answer of the protocol. */
export interface Answer {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

interface AttemptNamed {
  readonly attemptId: string;
  readonly providerAttemptId: string;
}

interface RefundAsked {
  readonly refundId: string;
  readonly providerPaymentId: string;
  readonly amount: number;
  readonly currency: string;
}

/** Accounts of attempts, captures and refunds, which answer the calls of the protocol. It is never faulty. */
export interface Bank {
  readonly open: (asked: Omit<SandboxAttempt, 'providerAttemptId' | 'status' | 'capture'>) => Answer;
  readonly close: (named: AttemptNamed) => Answer;
  readonly look: (named: AttemptNamed) => Answer;
  readonly refund: (asked: RefundAsked) => Answer;
  readonly find: (asked: RefundAsked) => Answer;
  readonly pay: (
    attemptId: string,
    money?: { readonly amount?: number; readonly currency?: string },
  ) => SandboxPayment;
  readonly startPaying: (attemptId: string) => void;
  readonly settle: (attemptId: string, end: 'paid' | 'closed') => void;
  readonly settleRefund: (refundId: string, end: 'confirmed' | 'failed') => void;
  readonly attemptIdOf: (providerPaymentId: string) => string | undefined;
  readonly attemptAt: (providerAttemptId: string) => SandboxAttempt | undefined;
  readonly ledger: () => SandboxLedger;
}

/** A bank without customers. */
export function createBank(options: {
  /** The page at which an attempt is paid. */
  readonly pageOf: (providerAttemptId: string) => string;
  readonly behaviourTo: (attemptId: string) => SandboxBehaviour;
  /** Sends a webhook about an attempt or a refund, `about`. */
  readonly tell: (about: string, attemptId: string, type: string, data: object) => void;
  readonly later: Tasks['later'];
  /** Says `closed` of attempts that it does not know. */
  readonly isForgetful: boolean;
}): Bank {
  const { pageOf, behaviourTo, tell, later, isForgetful } = options;
  const attempts = new Map<string, SandboxAttempt>();
  const captures = new Map<string, SandboxCapture>();
  const refunds = new Map<string, SandboxRefund>();

  const attemptOf = (attemptId: string): SandboxAttempt => {
    const attempt = attempts.get(attemptId);
    if (attempt === undefined) throw new RangeError(`no attempt ${attemptId} was opened`);
    return attempt;
  };

  /** An attempt as a call names it. */
  const named = ({ attemptId, providerAttemptId }: AttemptNamed): SandboxAttempt | undefined => {
    const attempt = attempts.get(attemptId);
    return attempt?.providerAttemptId === providerAttemptId ? attempt : undefined;
  };

  const stateOfUnknown = ({ attemptId }: AttemptNamed): Answer =>
    isForgetful
      ? { status: 200, body: { attemptId, status: 'closed' } }
      : problem(404, 'unknown_attempt', 'No such attempt was opened.');

  const tellOfAttempt = ({
    attemptId,
    orderId,
    providerAttemptId,
    status,
    capture,
  }: SandboxAttempt): void => {
    const data = {
      attemptId,
      orderId,
      providerAttemptId,
      ...(capture === null ? {} : { capture: toldOf(capture) }),
    };
    tell(attemptId, attemptId, `attempt.${status}`, data);
  };

  const move = (attempt: SandboxAttempt, status: SandboxAttempt['status']): SandboxAttempt => {
    const moved = { ...attempt, status };
    attempts.set(attempt.attemptId, moved);
    return moved;
  };

  const take = (
    attempt: SandboxAttempt,
    { amount = attempt.amount, currency = attempt.currency } = {},
  ): SandboxAttempt & { capture: SandboxCapture } => {
    const { attemptId, orderId } = attempt;
    const taken = { providerPaymentId: `pay_${randomUUID()}`, attemptId, orderId, amount, currency };
    captures.set(taken.providerPaymentId, taken);
    const paid = { ...attempt, status: 'paid' as const, capture: taken };
    attempts.set(attemptId, paid);
    return paid;
  };

  const startPaying = (attempt: SandboxAttempt, end: 'paid' | 'closed'): SandboxAttempt => {
    const processing = move(attempt, 'processing');
    tellOfAttempt(processing);
    later(behaviourTo(attempt.attemptId).processingMs, () => settle(attempt.attemptId, end));
    return processing;
  };

  const settle = (attemptId: string, end: 'paid' | 'closed'): void => {
    const attempt = attemptOf(attemptId);
    if (attempt.status !== 'processing') return;
    tellOfAttempt(end === 'paid' ? take(attempt) : move(attempt, 'closed'));
  };

  /** What becomes of an open attempt that is to be closed. */
  const close = (attempt: SandboxAttempt): SandboxAttempt => {
    switch (behaviourTo(attempt.attemptId).whenClosed) {
      case 'closed': {
        const closed = move(attempt, 'closed');
        tellOfAttempt(closed);
        return closed;
      }
      case 'paid_before':
        return take(attempt);
      case 'paid_now': {
        const paid = take(attempt);
        tellOfAttempt(paid);
        return paid;
      }
      case 'processing_then_paid':
        return startPaying(attempt, 'paid');
      case 'processing_then_closed':
        return startPaying(attempt, 'closed');
    }
  };

  const settleRefund = (refundId: string, end: 'confirmed' | 'failed'): void => {
    const refund = refunds.get(refundId);
    if (refund?.status !== 'sent') return;
    refunds.set(refundId, { ...refund, status: end });
    tellOfRefund(refund, end);
  };

  const tellOfRefund = (
    { refundId, providerRefundId, providerPaymentId }: SandboxRefund,
    end: 'confirmed' | 'failed',
  ): void => {
    const reason = end === 'failed' ? { reason: failed } : {};
    const attemptId = captures.get(providerPaymentId)?.attemptId ?? '';
    tell(refundId, attemptId, `refund.${end}`, { refundId, providerRefundId, ...reason });
  };

  return {
    open(asked) {
      const { attemptId } = asked;
      const before = attempts.get(attemptId);
      if (before === undefined && behaviourTo(attemptId).refuseToOpen) {
        return problem(422, 'payment_refused', 'This customer cannot pay here.');
      }
      const attempt: SandboxAttempt = before ?? {
        ...asked,
        providerAttemptId: `att_${randomUUID()}`,
        status: 'open',
        capture: null,
      };
      if (
        attempt.orderId !== asked.orderId ||
        attempt.amount !== asked.amount ||
        attempt.currency !== asked.currency
      ) {
        return problem(422, 'attempt_reused', 'This attempt was opened for another order or amount.');
      }
      attempts.set(attemptId, attempt);
      const { providerAttemptId } = attempt;
      const handOff =
        attempt.handOff === 'url'
          ? { url: pageOf(providerAttemptId) }
          : { clientSecret: `${providerAttemptId}_secret` };
      return { status: 200, body: { attemptId, providerAttemptId, handOff } };
    },

    close(asked) {
      const attempt = named(asked);
      if (attempt === undefined) return stateOfUnknown(asked);
      return stateOf(attempt.status === 'open' ? close(attempt) : attempt);
    },

    look(asked) {
      const attempt = named(asked);
      return attempt === undefined ? stateOfUnknown(asked) : stateOf(attempt);
    },

    refund({ refundId, providerPaymentId, amount, currency }) {
      const before = refunds.get(refundId);
      if (before !== undefined) {
        return before.providerPaymentId === providerPaymentId
          ? stateOfRefund(before)
          : problem(422, 'refund_reused', 'This refund was sent for another payment.');
      }
      const taken = captures.get(providerPaymentId);
      if (taken === undefined) return problem(422, 'unknown_payment', 'There is no such payment.');
      if (taken.amount !== amount || taken.currency !== currency) {
        return problem(422, 'amount_mismatch', 'A refund returns the whole payment.');
      }
      const { refunds: end, refundMs } = behaviourTo(taken.attemptId);
      if (end === 'refused') return problem(422, 'refund_refused', 'This payment cannot be returned.');
      const refund: SandboxRefund = {
        refundId,
        providerRefundId: `ref_${randomUUID()}`,
        providerPaymentId,
        amount,
        currency,
        status: firstStatus[end],
      };
      refunds.set(refundId, refund);
      if (end === 'confirmed_twice') tellOfRefund(refund, 'confirmed');
      if (end === 'confirmed_later') later(refundMs, () => settleRefund(refundId, 'confirmed'));
      if (end === 'failed_later') later(refundMs, () => settleRefund(refundId, 'failed'));
      return stateOfRefund(refund);
    },

    find({ refundId }) {
      const refund = refunds.get(refundId);
      return refund === undefined
        ? { status: 200, body: { refundId, status: 'none' } }
        : stateOfRefund(refund);
    },

    pay(attemptId, money) {
      const attempt = attemptOf(attemptId);
      if (attempt.capture !== null) return { outcome: 'paid', capture: attempt.capture };
      if (attempt.status !== 'open') {
        return { outcome: attempt.status === 'processing' ? 'processing' : 'closed' };
      }
      const paid = take(attempt, money);
      tellOfAttempt(paid);
      return { outcome: 'paid', capture: paid.capture };
    },

    startPaying(attemptId) {
      const attempt = attemptOf(attemptId);
      if (attempt.status === 'open') startPaying(attempt, 'paid');
    },

    settle,
    settleRefund,
    attemptIdOf: (providerPaymentId) => captures.get(providerPaymentId)?.attemptId,
    attemptAt: (providerAttemptId) =>
      [...attempts.values()].find((attempt) => attempt.providerAttemptId === providerAttemptId),

    ledger() {
      const returned = new Set<string>();
      const returnedTwice = new Set<string>();
      for (const { providerPaymentId, status } of refunds.values()) {
        if (status === 'failed') continue;
        if (returned.has(providerPaymentId)) returnedTwice.add(providerPaymentId);
        returned.add(providerPaymentId);
      }
      return {
        attempts: [...attempts.values()],
        captures: [...captures.values()],
        refunds: [...refunds.values()],
        returnedTwice: [...returnedTwice],
      };
    },
  };
}

/** What a refund is at first. */
const firstStatus = {
  confirmed: 'confirmed',
  confirmed_twice: 'confirmed',
  confirmed_later: 'sent',
  failed: 'failed',
  failed_later: 'sent',
} as const;

const failed = 'The account of the customer was closed.';

/** A refusal, as RFC 9457 has it. */
export function problem(status: number, code: string, detail: string): Answer {
  return { status, body: { type: 'about:blank', status, code, detail } };
}

function toldOf({ providerPaymentId, amount, currency }: SandboxCapture): object {
  return { providerPaymentId, amount, currency };
}

function stateOf({ attemptId, status, capture }: SandboxAttempt): Answer {
  return {
    status: 200,
    body: { attemptId, status, ...(capture === null ? {} : { capture: toldOf(capture) }) },
  };
}

function stateOfRefund({ refundId, providerRefundId, status }: SandboxRefund): Answer {
  const reason = status === 'failed' ? { reason: failed } : {};
  return { status: 200, body: { refundId, providerRefundId, status, ...reason } };
}
