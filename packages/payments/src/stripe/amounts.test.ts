import { expect, test } from 'vitest';
import { fromStripe, toStripe } from './amounts.ts';

test.for([
  ['EUR', 1234, 1234],
  ['HUF', 1234, 1234],
  ['JPY', 500, 500],
  ['ISK', 5, 500],
  ['UGX', 5, 500],
  ['MGA', 500, 5],
  ['KWD', 5120, 5120],
] as const)('%s: %i minor units are %i at Stripe, and back', ([currency, amount, counted]) => {
  expect(toStripe(amount, currency)).toEqual({ amount: counted, currency: currency.toLowerCase() });
  expect(fromStripe(counted, currency.toLowerCase())).toBe(amount);
});

test.for([
  ['KWD', 5123],
  ['MGA', 501],
  ['CLF', 10_000],
  ['IQD', 1000],
  ['ISK', Number.MAX_SAFE_INTEGER],
] as const)('%s: %i minor units are refused', ([currency, amount]) => {
  expect(toStripe(amount, currency)).toEqual({ refusal: expect.stringContaining(currency) });
});

test('what Stripe counts and nobody else is not guessed', () => {
  expect(fromStripe(550, 'isk')).toBeUndefined();
  expect(fromStripe(1000, 'iqd')).toBeUndefined();
});
