import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Deadlines } from './deadlines.ts';
import { connectedDeadlines, newDeadline, startTestRedis, type TestRedis } from './testing.ts';

let redis: TestRedis;
let deadlines: Deadlines;

beforeAll(async () => {
  redis = await startTestRedis();
  ({ deadlines } = await connectedDeadlines(redis.url));
});

afterAll(async () => {
  await deadlines.stop();
  await redis.stop();
});

test('an epoch stays until Redis loses its data', async () => {
  expect(await deadlines.epochs([0, 5])).toEqual(
    new Map([
      [0, null],
      [5, null],
    ]),
  );
  await deadlines.markEpoch([0], 'one');
  expect(await deadlines.epochs([0, 5])).toEqual(
    new Map([
      [0, 'one'],
      [5, null],
    ]),
  );
  await redis.kill();
  await redis.restart();
  await expect.poll(() => deadlines.reachable()).toBe(true);
  expect((await deadlines.epochs([0])).get(0)).toBe('one');
  await redis.client.flushall();
  expect((await deadlines.epochs([0])).get(0)).toBeNull();
});

test('armed jobs are read in pages, those that fire first first', async () => {
  const all = Array.from({ length: 25 }, (_, n) => newDeadline(60_000 + n * 10, { partition: 1 }));
  await deadlines.armMany(all);
  const seen: string[] = [];
  let after: number | null = 0;
  while (after !== null) {
    const page = await deadlines.armedPage(1, { after, limit: 10 });
    seen.push(...page.orderIds);
    after = page.next;
  }
  expect(seen).toEqual(all.map(({ orderId }) => orderId));
});

test('lacking names the deadlines without a delayed job, over several partitions', async () => {
  const armed = [newDeadline(60_000, { partition: 2 }), newDeadline(60_000, { partition: 3 })];
  const lost = [newDeadline(60_000, { partition: 2 }), newDeadline(60_000, { partition: 3 })];
  await deadlines.armMany(armed);
  expect(new Set(await deadlines.lacking([...armed, ...lost]))).toEqual(new Set(lost));
});

test('without Redis all of them reject, none answers that something is missing', async () => {
  await redis.kill();
  await expect(deadlines.epochs([0])).rejects.toThrow();
  await expect(deadlines.lacking([newDeadline(60_000)])).rejects.toThrow();
  await expect(deadlines.armedPage(0, { after: 0, limit: 10 })).rejects.toThrow();
  await redis.restart();
});
