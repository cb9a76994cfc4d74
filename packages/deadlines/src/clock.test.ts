import { waitFor } from '@lapse/devstack';
import { createMetrics, type Metrics } from '@lapse/runtime';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { watchClock, type Clock } from './clock.ts';
import { metric, silent } from './testing.ts';

let clock: Clock;
let metrics: Metrics;
let measured: () => Promise<number | undefined>;
let measuredCount: number;
beforeEach(() => {
  metrics = createMetrics();
  measuredCount = 0;
  clock = watchClock({
    metrics,
    log: silent,
    everyMs: 5,
    clockOffsetMs() {
      measuredCount += 1;
      return measured();
    },
  });
});
afterEach(() => clock.stop());

/** Waits until what `measured` gives now has been heeded. */
async function heeded(): Promise<void> {
  const before = measuredCount;
  await waitFor(() => measuredCount > before + 1, { what: 'two measurements' });
}

test.each([
  [30_000, '30000 ms ahead, not fetching'],
  [-30_000, '30000 ms behind, not fetching'],
  [1001, '1001 ms ahead, not fetching'],
  [1000, undefined],
  [-1000, undefined],
])('%d ms off the database: %s', async (offsetMs, problem) => {
  measured = () => Promise.resolve(offsetMs);
  await clock.start();
  expect(clock.isRight()).toBe(problem === undefined);
  expect(clock.problem()).toBe(problem);
  expect(await metric(metrics, 'lapse_clock_offset_ms')).toBe(offsetMs);
});

test('a clock that cannot be measured stays what it was', async () => {
  measured = () => Promise.reject(new Error('the database is down'));
  await clock.start();
  expect(clock.isRight()).toBe(true);
  measured = () => Promise.resolve(5000);
  await heeded();
  expect(clock.isRight()).toBe(false);
  measured = () => Promise.resolve(undefined);
  await heeded();
  measured = () => Promise.reject(new Error('the database is down'));
  await heeded();
  expect(clock.isRight()).toBe(false);
  expect(await metric(metrics, 'lapse_clock_offset_ms')).toBe(5000);
});

test('each change is logged once', async () => {
  const lines: string[] = [];
  const note = (_detail: unknown, message = ''): void => void lines.push(message);
  vi.spyOn(silent, 'error').mockImplementation(note);
  vi.spyOn(silent, 'info').mockImplementation(note);
  measured = () => Promise.resolve(0);
  await clock.start();
  for (const offsetMs of [5000, -5000, 200, 5000]) {
    measured = () => Promise.resolve(offsetMs);
    await heeded();
  }
  const [wrong, right] = [
    "this machine's clock is wrong, no jobs are fetched",
    "this machine's clock is right again",
  ];
  expect(lines).toEqual([wrong, right, wrong]);
});
