import { expect, test } from 'vitest';

import { compareBooks, type Books, type LedgerBreaches, type MoneyRows } from './books.ts';

const order: MoneyRows['orders'][number] = {
  id: 'order',
  status: 'paid',
  cancelReason: null,
  amount: 500,
  currency: 'EUR',
};
const attempt = { id: 'attempt', orderId: 'order', provider: 'sandbox', providerAttemptId: 'att' };
const payment: MoneyRows['payments'][number] = {
  orderId: 'order',
  provider: 'sandbox',
  providerPaymentId: 'pay',
  amount: 500,
  currency: 'EUR',
  outcome: 'paid',
  verified: true,
  isListed: false,
};
const capture: Books['captures'][number] = {
  provider: 'sandbox',
  providerPaymentId: 'pay',
  attemptId: 'attempt',
  orderId: 'order',
  amount: 500,
  currency: 'EUR',
};
const opened: Books['attempts'][number] = {
  ...attempt,
  attemptId: 'attempt',
  amount: 500,
  currency: 'EUR',
  handOff: 'url',
  returnUrl: null,
  status: 'paid',
  capture,
};
const refund: Books['refunds'][number] = {
  provider: 'sandbox',
  refundId: 'refund',
  providerRefundId: 'ref',
  providerPaymentId: 'pay',
  amount: 500,
  currency: 'EUR',
  status: 'confirmed',
};
const late = { ...payment, outcome: 'late' };
const cancelled = { ...order, status: 'cancelled', cancelReason: 'customer' } as const;
const expired = { ...order, status: 'cancelled', cancelReason: 'payment_timeout' } as const;

/** One order, paid at a provider, unless something else is said. */
function compare(
  { orders = [order], attempts = [attempt], payments = [payment] }: Partial<MoneyRows>,
  { captures = [capture], refunds = [], returnedTwice = [], ...books }: Partial<Books> = {},
  told = [attempt],
): LedgerBreaches {
  const rows = { orders, attempts, payments };
  return compareBooks({ captures, refunds, returnedTwice, attempts: books.attempts ?? [opened] }, rows, told);
}

const none = { lost: [], wrong: [], duplicated: [] };

test.each<[how: string, found: LedgerBreaches]>([
  ['buys its order', compare({})],
  ['goes back', compare({ orders: [cancelled], payments: [late] }, { refunds: [refund] })],
  ['is shown to a person', compare({ orders: [cancelled], payments: [{ ...late, isListed: true }] })],
  [
    'is shown to a person because it did not go back',
    compare(
      { orders: [cancelled], payments: [{ ...late, isListed: true }] },
      { refunds: [{ ...refund, status: 'failed' }] },
    ),
  ],
])('nothing is wrong where money %s', (_, found) => {
  expect(found).toEqual(none);
});

test.each<[what: string, kind: keyof LedgerBreaches, found: LedgerBreaches]>([
  ['that is not recorded', 'lost', compare({ payments: [] })],
  ['recorded for another order', 'wrong', compare({ payments: [{ ...payment, orderId: 'another' }] })],
  ['recorded with another amount', 'wrong', compare({ payments: [{ ...payment, amount: 499 }] })],
  ['kept for nothing', 'wrong', compare({ orders: [cancelled], payments: [late] })],
  [
    'kept because its refund failed, and nobody was told',
    'wrong',
    compare({ orders: [cancelled], payments: [late] }, { refunds: [{ ...refund, status: 'failed' }] }),
  ],
  ['that bought its order and went back', 'wrong', compare({}, { refunds: [refund] })],
  [
    'that went back, and a person is asked to return it',
    'wrong',
    compare({ orders: [cancelled], payments: [{ ...late, isListed: true }] }, { refunds: [refund] }),
  ],
  ['that went back twice', 'duplicated', compare({}, { returnedTwice: ['pay'] })],
  [
    'that had come in full when its order was cancelled for time',
    'wrong',
    compare({ orders: [expired], payments: [late] }, { refunds: [refund] }),
  ],
  ['that nobody took', 'wrong', compare({}, { captures: [] })],
])('the books show money %s', (_, kind, found) => {
  expect(found[kind]).not.toEqual([]);
});

test.each<[what: string, kind: keyof LedgerBreaches, found: LedgerBreaches]>([
  ['that was told and does not exist', 'lost', compare({ attempts: [] })],
  ['that was told and is unknown to its provider', 'lost', compare({}, { attempts: [] })],
  ['that was told by another name', 'lost', compare({}, {}, [{ ...attempt, providerAttemptId: 'other' }])],
  ['that nobody knows but its provider', 'lost', compare({ attempts: [] }, {}, [])],
  [
    'on which a settled order can be paid again',
    'wrong',
    compare({}, { attempts: [{ ...opened, status: 'open' }] }),
  ],
])('the books show an attempt %s', (_, kind, found) => {
  expect(found[kind]).not.toEqual([]);
});
