import { createMetrics } from '@lapse/runtime';
import { expect, test, vi } from 'vitest';
import { watchBacklog } from './backlog.ts';

const backlog = { overdueCount: 3, oldestOverdueMs: 700 };

/** Metrics of a process whose database answers as is said; and what is told of the backlog in them. */
function watched(answer: () => Promise<typeof backlog>) {
  const metrics = createMetrics();
  const ask = vi.fn<typeof answer>(answer);
  watchBacklog({ orders: { backlog: ask }, metrics });
  return {
    ask,
    scrape: async () => {
      const lines = (await metrics.metrics()).split('\n');
      expect(lines.some((line) => line.startsWith('process_cpu_seconds_total '))).toBe(true);
      return lines.filter((line) => /^lapse_(oldest_)?overdue/.test(line));
    },
  };
}

test('both figures are of the same instant, by one question', async () => {
  let answer = backlog;
  const { ask, scrape } = watched(() => Promise.resolve(answer));
  expect(await scrape()).toEqual(['lapse_oldest_overdue_ms 700', 'lapse_overdue_orders 3']);
  answer = { overdueCount: 0, oldestOverdueMs: 0 };
  expect(await scrape()).toEqual(['lapse_oldest_overdue_ms 0', 'lapse_overdue_orders 0']);
  expect(ask).toHaveBeenCalledTimes(2);
});

test('while the database is down they are left out, and nothing else is', async () => {
  let isDown = false;
  const { scrape } = watched(() => (isDown ? Promise.reject(new Error('down')) : Promise.resolve(backlog)));
  await scrape();
  isDown = true;
  expect(await scrape()).toEqual([]);
  isDown = false;
  expect(await scrape()).toHaveLength(2);
});

test('a database that is silent is waited for no longer than a second, and asked once', async () => {
  const { promise, resolve } = Promise.withResolvers<typeof backlog>();
  const { ask, scrape } = watched(() => promise);
  const startedAt = performance.now();
  expect(await scrape()).toEqual([]);
  expect(performance.now() - startedAt).toBeLessThan(2000);
  resolve(backlog);
  expect(await scrape()).toHaveLength(2);
  expect(ask).toHaveBeenCalledTimes(1);
});
