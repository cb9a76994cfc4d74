import { randomUUID } from 'node:crypto';
import { expect, test, vi } from 'vitest';
import { pageExpiresAt } from './page-expiry.ts';

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;

/** A UUIDv7 of some time. */
function uuidv7(at: number): string {
  const time = at.toString(16).padStart(12, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
}

const madeAt = Date.UTC(2026, 5, 1, 12);
const minutesAfter = (payBy: Date | null): number =>
  (pageExpiresAt(uuidv7(madeAt), payBy) * 1000 - madeAt) / minuteMs;
const inMinutes = (minutes: number): Date => new Date(madeAt + minutes * minuteMs);

test.for([
  ['in the past', inMinutes(-5), 35],
  ['in 10 minutes, less than Stripe allows', inMinutes(10), 35],
  ['in 35 minutes', inMinutes(35), 35],
  ['in 2 hours', inMinutes(120), 120],
  ['in 3 days, more than Stripe allows', inMinutes(3 * 24 * 60), 24 * 60 - 5],
  ['never', null, 24 * 60 - 5],
] as const)('with a deadline %s', ([, payBy, minutes]) => {
  expect(minutesAfter(payBy)).toBe(minutes);
});

test('is never shorter than the time to pay by a part of a second', () => {
  const payBy = new Date(madeAt + hourMs + 1);
  expect(pageExpiresAt(uuidv7(madeAt), payBy) * 1000).toBeGreaterThanOrEqual(payBy.getTime());
});

test('comes from the attempt, not from the clock', () => {
  const attemptId = uuidv7(madeAt);
  const payBy = inMinutes(10);
  vi.useFakeTimers({ now: madeAt, toFake: ['Date'] });
  const first = pageExpiresAt(attemptId, payBy);
  vi.setSystemTime(madeAt + hourMs);
  expect(pageExpiresAt(attemptId, payBy)).toBe(first);
  vi.useRealTimers();
  expect(() => pageExpiresAt(randomUUID(), null)).toThrow(RangeError);
});
