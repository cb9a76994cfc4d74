import { beforeEach, expect, test, vi } from 'vitest';
import { Backoff, jittered } from './backoff.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] });
  return () => vi.useRealTimers();
});

const failing = (): Promise<never> => Promise.reject(new Error('down'));
const wait = async (backoff: Backoff): Promise<number> => {
  const tried = await backoff.try(failing);
  return 'error' in tried ? tried.waitMs : 0;
};

test('the wait doubles with the length of the outage, to 30 s', async () => {
  const backoff = new Backoff();
  const waits: number[] = [];
  for (let round = 0; round < 10; round += 1) {
    const waitMs = await wait(backoff);
    waits.push(waitMs);
    vi.advanceTimersByTime(waitMs);
  }
  expect(waits).toEqual([250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
});

test('tries that fail within one wait count once', async () => {
  const backoff = new Backoff();
  expect(await Promise.all([wait(backoff), wait(backoff), wait(backoff)])).toEqual([250, 250, 250]);
  vi.advanceTimersByTime(249);
  expect(await wait(backoff)).toBe(250);
  vi.advanceTimersByTime(1);
  expect(await wait(backoff)).toBe(500);
});

test('a success starts from the beginning', async () => {
  const backoff = new Backoff();
  await wait(backoff);
  vi.advanceTimersByTime(250);
  await wait(backoff);
  expect(await backoff.try(() => Promise.resolve('cancelled'))).toEqual({ result: 'cancelled' });
  expect(await wait(backoff)).toBe(250);
});

test('jitter takes away at most half', () => {
  const waits = Array.from({ length: 1000 }, () => jittered(1000));
  expect(Math.min(...waits)).toBeGreaterThanOrEqual(500);
  expect(Math.max(...waits)).toBeLessThanOrEqual(1000);
});
