import { expect, test } from 'vitest';
import { duration, eventEntry, facts, money, words } from './present.ts';

const space = '\u00A0';

test.each([
  [1, 'EUR', 'EUR 0.01'],
  [123_450, 'EUR', 'EUR 1,234.50'],
  [1_234, 'JPY', 'JPY 1,234'],
  [1_234, 'KWD', 'KWD 1.234'],
  [9_007_199_254_740_991, 'EUR', 'EUR 90,071,992,547,409.91'],
  [5, 'ZZZ', 'ZZZ 0.05'],
  // Intl would write these without decimals.
  [123_456, 'HUF', 'HUF 1,234.56'],
  [123_456, 'PKR', 'PKR 1,234.56'],
  [1_234_567, 'IQD', 'IQD 1,234.567'],
  [123_456, 'CLF', 'CLF 12.3456'],
  [500, 'UYI', 'UYI 500'],
])('%d minor units of %s are %s', (amount, currency, text) => {
  expect(money(amount, currency).replace(space, ' ')).toBe(text);
});

test.each([
  [0, '0 ms'],
  [8, '8 ms'],
  [1000, '1 s'],
  [3508, '3 s 508 ms'],
  [59_999.6, '1 min'],
  [1_798_000, '29 min 58 s'],
  [3_600_001, '1 h'],
  [90_061_000, '1 d 1 h'],
  [-8, '8 ms'],
])('%d ms are %s', (ms, text) => {
  expect(duration(ms)).toBe(text);
});

test.each([
  ['providerPaymentId', 'provider payment id'],
  ['payment_timeout', 'payment timeout'],
])('%s reads %s', (name, text) => {
  expect(words(name)).toBe(text);
});

test('the data of an event reads as money, times and durations, in the order people read it', () => {
  const data = {
    latenessMs: 8,
    currency: 'JPY',
    amount: 500,
    expireAt: '2026-01-02T03:04:05.678Z',
    reason: 'payment_timeout',
    attempts: [1, 2],
  };

  expect(facts(data)).toEqual([
    { label: 'reason', text: 'payment timeout' },
    { label: 'amount', text: `JPY${space}500` },
    { label: 'was due', at: new Date('2026-01-02T03:04:05.678Z') },
    { label: 'late by', text: '8 ms' },
    { label: 'attempts', text: '[1,2]' },
  ]);
});

test('an event of a later version is shown all the same', () => {
  const at = new Date('2026-01-02T03:04:05.678Z');
  const event = { id: 1, type: 'order.teleported', at, actor: 'api', data: { where: 'home', currency: 'x' } };

  expect(eventEntry(event, new Date(at.getTime() - 1500))).toMatchObject({
    name: 'order.teleported',
    since: '+1 s 500 ms',
    facts: [
      { label: 'where', text: 'home' },
      { label: 'currency', text: 'x' },
    ],
  });
});

test('a reason of ours is read as words, one of a provider stays as it was said, and what is missing is none', () => {
  expect(facts({ reason: 'payment_timeout' })).toEqual([{ label: 'reason', text: 'payment timeout' }]);
  expect(facts({ reason: 'card_declined: No funds', deadlineAt: null })).toEqual([
    { label: 'reason', text: 'card_declined: No funds' },
    { label: 'deadline', text: 'none' },
  ]);
});
