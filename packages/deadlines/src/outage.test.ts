import { startProxy, waitFor, type Proxy } from '@lapse/devstack';
import { createMetrics } from '@lapse/runtime';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createDeadlines, type Deadlines } from './deadlines.ts';
import {
  connectedDeadlines,
  metric,
  newDeadline,
  silent,
  startTestRedis,
  type TestRedis,
} from './testing.ts';

let redis: TestRedis;
let proxy: Proxy;
let url: string;
beforeAll(async () => {
  redis = await startTestRedis();
});
afterAll(() => redis.stop());
beforeEach(async () => {
  proxy = await startProxy({ target: { host: '127.0.0.1', port: redis.port } });
  url = proxy.urlFor(redis.url);
});
afterEach(() => proxy.stop());

const minuteMs = 60_000;

/** What a call answered, and after how long. */
async function timed<Answer>(call: Promise<Answer>): Promise<{ answer: Answer; tookMs: number }> {
  const startedAt = performance.now();
  const answer = await call;
  return { answer, tookMs: performance.now() - startedAt };
}

const armedAgain = (deadlines: Deadlines): Promise<true> =>
  waitFor(async () => (await deadlines.arm(newDeadline(minuteMs))) === 'armed', {
    what: 'arming to work again',
  });

describe('while Redis is down', () => {
  test('arming fails at once, throws nothing, and works again when Redis is back', async () => {
    const { deadlines, metrics } = await connectedDeadlines(url, 25);
    await proxy.refuse();
    await waitFor(async () => !(await deadlines.reachable()), { what: 'the loss to be noticed' });
    const { answer, tookMs } = await timed(deadlines.arm(newDeadline(minuteMs)));
    expect(answer).toBe('failed');
    expect(tookMs).toBeLessThan(25);
    expect(await deadlines.rearm(newDeadline(minuteMs))).toBe('failed');
    await deadlines.disarm(newDeadline(minuteMs));
    expect(await deadlines.armMany([newDeadline(minuteMs), newDeadline(minuteMs)])).toMatchObject({
      armed: 0,
      failed: 2,
    });
    await expect(deadlines.inspect(newDeadline(minuteMs))).rejects.toThrow();
    await expect(deadlines.depths([0])).rejects.toThrow();
    expect(await metric(metrics, 'lapse_deadline_arm_failures_total')).toBe(4);
    expect(await metric(metrics, 'lapse_deadline_disarm_failures_total')).toBe(1);
    await proxy.restore();
    await armedAgain(deadlines);
    await deadlines.stop();
  });

  test('a process that starts then neither hangs nor gathers calls, and works as soon as Redis is there', async () => {
    await proxy.refuse();
    const metrics = createMetrics();
    const deadlines = createDeadlines({ redisUrl: url, log: silent, metrics });
    // Bull Board holds such a queue from the start.
    const queue = deadlines.queue(0);
    const many = await timed(
      Promise.all(Array.from({ length: 20_000 }, () => deadlines.arm(newDeadline(minuteMs)))),
    );
    expect(many.answer.filter((outcome) => outcome === 'armed')).toEqual([]);
    expect(many.tookMs).toBeLessThan(2000);
    await waitFor(async () => (await metric(metrics, 'lapse_deadline_calls_pending')) === 0, {
      what: 'no calls',
    });
    expect(await deadlines.reachable()).toBe(false);
    await proxy.restore();
    await armedAgain(deadlines);
    expect(await queue.getDelayedCount()).toBeGreaterThan(0);
    await deadlines.stop();
  });

  test('stopping takes no longer than 2 s', async () => {
    const { deadlines } = await connectedDeadlines(url);
    await proxy.refuse();
    const arms = Array.from({ length: 100 }, () => deadlines.arm(newDeadline(minuteMs)));
    expect((await timed(deadlines.stop())).tookMs).toBeLessThan(2500);
    expect(new Set(await Promise.all(arms))).toEqual(new Set(['failed']));
  });

  test('a real crash of Redis loses no armed job', async () => {
    const { deadlines } = await connectedDeadlines(redis.url);
    const deadline = newDeadline(minuteMs);
    expect(await deadlines.arm(deadline)).toBe('armed');
    await redis.kill();
    expect(await deadlines.arm(newDeadline(minuteMs))).toBe('failed');
    await redis.restart();
    await armedAgain(deadlines);
    expect(await deadlines.inspect(deadline)).toEqual({ state: 'delayed', firesAt: deadline.expireAt });
    await deadlines.stop();
  });
});

describe('while Redis is silent', () => {
  test('arming is deferred after 25 ms, then fails, and works again when the network is back', async () => {
    const { deadlines, metrics } = await connectedDeadlines(url, 25);
    await deadlines.arm(newDeadline(minuteMs));
    proxy.blackhole();
    const { answer, tookMs } = await timed(deadlines.arm(newDeadline(minuteMs)));
    expect(answer).toBe('deferred');
    expect(tookMs).toBeGreaterThan(20);
    expect(tookMs).toBeLessThan(200);
    expect((await timed(deadlines.disarm(newDeadline(minuteMs)))).tookMs).toBeLessThan(200);
    expect((await timed(deadlines.rearm(newDeadline(minuteMs)))).answer).toBe('deferred');
    expect(await metric(metrics, 'lapse_deadline_arms_deferred_total')).toBe(2);
    await waitFor(async () => (await metric(metrics, 'lapse_deadline_arm_failures_total')) === 2, {
      what: 'the arms to fail',
    });
    const inspected = await timed(deadlines.inspect(newDeadline(minuteMs)).catch(() => 'failed'));
    expect(inspected.answer).toBe('failed');
    expect(inspected.tookMs).toBeLessThan(1000);
    await proxy.restore();
    await armedAgain(deadlines);
    await deadlines.stop();
  });

  test('a connection that stays silent is made anew', async () => {
    const { deadlines } = await connectedDeadlines(url, 25);
    const before = deadlines.reachable();
    expect(await before).toBe(true);
    proxy.blackhole();
    void deadlines.arm(newDeadline(minuteMs));
    // Given up after 5 s; from then on arming fails at once instead of waiting.
    await waitFor(async () => (await deadlines.arm(newDeadline(minuteMs))) === 'failed', {
      what: 'the connection to be given up',
      timeoutMs: 8000,
    });
    await deadlines.stop();
  });

  test('no more than 10,000 calls are under way, the others fail at once', async () => {
    const { deadlines, metrics } = await connectedDeadlines(url, 25);
    proxy.blackhole();
    const outcomes = await Promise.all(
      Array.from({ length: 12_000 }, () => deadlines.arm(newDeadline(minuteMs))),
    );
    expect(outcomes.filter((outcome) => outcome === 'failed')).toHaveLength(2000);
    expect(outcomes.filter((outcome) => outcome === 'deferred')).toHaveLength(10_000);
    expect(await metric(metrics, 'lapse_deadline_calls_pending')).toBe(10_000);
    expect((await timed(deadlines.stop())).tookMs).toBeLessThan(3000);
  });
});
