import type { FreezeScope, HeldAttempt, Payment, PaymentAttempt, Refund } from '@lapse/orders';
import { count, duration, money, statusNames, words } from './present.ts';

const listReasons: Readonly<Record<NonNullable<Payment['listedFor']>, string>> = {
  unverified: 'Only the shop told of it, no provider did: nothing goes back by itself.',
  policy: 'The policy of its order leaves late money to a person.',
  orderless: 'Its provider took it for an order that does not exist.',
  restated: 'It paid its order by what the shop told; its provider told another amount later.',
  conflict: 'Its provider told that it was for another order.',
  refund_failed: 'Its provider refused to return it.',
};

const resolutions: Readonly<Record<NonNullable<Payment['resolution']>, string>> = {
  refund: 'refunded',
  accept: 'accepted',
  dismiss: 'dismissed',
};

/** A payment as the order page and the work list show it. */
export function paymentLine(payment: Payment) {
  const { outcome, amount, currency, listedAt, listedFor, resolution, refund } = payment;
  return {
    ...payment,
    outcomeName: words(outcome),
    money: money(amount, currency),
    isWaiting: listedAt !== null && resolution === null,
    waiting: listedAt === null ? null : duration(Date.now() - listedAt.getTime()),
    why: listedFor === null ? 'It paid for nothing.' : listReasons[listedFor],
    decided: resolution === null ? null : resolutions[resolution],
    refund: refund === null ? null : refundLine(refund),
  };
}

const refundStates: Readonly<Record<Refund['state'], string>> = {
  due: 'to be sent',
  sent: 'sent, not confirmed',
  confirmed: 'confirmed',
  failed: 'refused',
};

function refundLine({ state, tryCount, lastReason, actor, providerRefundId, ...at }: Refund) {
  return {
    state,
    stateName: refundStates[state],
    since: at.failedAt ?? at.confirmedAt ?? at.sentAt ?? at.dueAt,
    tries: tryCount === 1 ? '1 try' : `${count(tryCount)} tries`,
    reason: lastReason,
    actor,
    providerRefundId,
  };
}

const verdicts: Readonly<Record<NonNullable<PaymentAttempt['verdict']>, string>> = {
  open: 'the customer may still pay',
  processing: 'money is on its way',
  unknown: 'no answer',
};

/** A payment attempt as the order page shows it. */
export function attemptLine(attempt: PaymentAttempt) {
  const { verdict, verdictReason } = attempt;
  return { ...attempt, verdictName: verdict === null ? null : verdicts[verdict], reason: verdictReason };
}

/** An order that its provider holds, as a list shows it. */
export function heldLine(held: HeldAttempt) {
  return {
    ...held,
    verdictName: verdicts[held.verdict],
    statusName: held.closingAt === null ? statusNames[held.status] : 'being closed',
    money: money(held.amount, held.currency),
    lasting: duration(Date.now() - held.verdictSince.getTime()),
    asked: held.askCount === 1 ? 'asked once' : `asked ${count(held.askCount)} times`,
  };
}

/** Which orders a freeze is of, `of channel web, paid by card, at stripe`; null: of everybody. */
export function scopeText({ channel, paymentMethod, provider }: FreezeScope): string | null {
  const parts = [
    ...(channel === undefined ? [] : [`of channel ${channel}`]),
    ...(paymentMethod === undefined ? [] : [`with payment method ${paymentMethod}`]),
    ...(provider === undefined ? [] : [`with an attempt at ${provider}`]),
  ];
  return parts.length === 0 ? null : parts.join(', ');
}
