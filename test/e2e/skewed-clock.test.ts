import { waitFor, type RunningApp } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';

import { metric, startFleet, untilNonePending, type Fleet } from './fleet.ts';

const orderCount = 100;
const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];
let fleet: Fleet;
let placedCount = 0;
/** Jobs that fired in workers whose clock is right. */
let firedCount = 0;

beforeAll(async () => {
  fleet = await startFleet({ workerCount: 0, env: { LAPSE_PARTITIONS: '4' } });
  await fleet.client.setStock('mug', null);
});

afterAll(async () => {
  await fleet.expectInvariants();
  await fleet.stop();
});

/** Starts a worker whose clock is this far ahead. */
const startSkewed = (offsetMs: number): Promise<RunningApp> =>
  fleet.add('worker', {}, [
    '--import',
    new URL(`../chaos/skewed-clock.ts?offsetMs=${offsetMs}`, import.meta.url).href,
  ]);

/** Jobs that fired in a worker, by what came of it. */
async function fires(worker: RunningApp): Promise<Map<string, number>> {
  const text = await (await fetch(`${worker.url}/metrics`)).text();
  const lines = text.matchAll(/^lapse_deadline_fires_total\{answer="(\w+)"\} (\d+)$/gm);
  return new Map(Array.from(lines, ([, answer = '', count]) => [answer, Number(count)]));
}

function sum(counts: Map<string, number>): number {
  return [...counts.values()].reduce((total, count) => total + count, 0);
}

/** What became of the orders placed since then: how many by whom, and the least and greatest lateness. */
async function cancellations(): Promise<{
  byActor: Record<string, number>;
  leastMs: number;
  mostMs: number;
}> {
  const { rows } = await fleet.database.query<{ actor: string; count: number; least: number; most: number }>(`
    select e.actor, count(*),
      min(extract(epoch from o.cancelled_at - o.expire_at) * 1000)::float8 as least,
      max(extract(epoch from o.cancelled_at - o.expire_at) * 1000)::float8 as most
    from events e join orders o on o.id = e.order_id
    where e.type = 'order.cancelled'
    group by e.actor`);
  return {
    byActor: Object.fromEntries(rows.map(({ actor, count }) => [actor, count])),
    leastMs: Math.min(...rows.map(({ least }) => least)),
    mostMs: Math.max(...rows.map(({ most }) => most)),
  };
}

async function checkout(): Promise<void> {
  placedCount += orderCount;
  await Promise.all(
    Array.from({ length: orderCount }, () =>
      fleet.client.checkout({ currency: 'EUR', items, paymentWindowMs: 4000 }),
    ),
  );
}

describe.each([
  [30_000, 'ahead'],
  [-30_000, 'behind'],
])('a worker whose clock is %d ms off', (offsetMs, direction) => {
  let skewed: RunningApp;
  beforeAll(async () => {
    skewed = await startSkewed(offsetMs);
    return async () => {
      await skewed.stop();
    };
  });

  test('says so where its readiness is asked for, and is ready: it sweeps', async () => {
    const ready = await fetch(`${skewed.url}/readyz`);
    expect(ready.status).toBe(200);
    expect(await ready.json()).toMatchObject({
      status: 'ready',
      postgresql: 'ok',
      redis: 'ok',
      clock: expect.stringMatching(new RegExp(`^\\d+ ms ${direction}, not fetching$`)),
    });
    const measured = await metric(skewed, 'lapse_clock_offset_ms');
    expect(Math.abs(measured - offsetMs)).toBeLessThan(500);
    const told = skewed.logs().filter((line) => line.includes("this machine's clock is wrong"));
    expect(told).toHaveLength(1);
  });

  test('alone, cancels nothing early, fires nothing, and sweeps what is overdue in time', async () => {
    const before = await cancellations();
    await checkout();
    await untilNonePending(fleet.database, 15_000);
    const { byActor, leastMs, mostMs } = await cancellations();
    expect((byActor['sweeper'] ?? 0) - (before.byActor['sweeper'] ?? 0)).toBe(orderCount);
    expect(byActor['worker']).toBe(before.byActor['worker']);
    expect(leastMs).toBeGreaterThanOrEqual(0);
    expect(mostMs).toBeLessThan(3000);
    expect(sum(await fires(skewed))).toBe(0);
  });

  test('beside one whose clock is right, leaves the jobs to it, and they fire on time', async () => {
    const right = await fleet.add('worker');
    onTestFinished(async () => {
      await right.stop();
    });
    await waitFor(async () => (await metric(right, 'lapse_canary_lateness_ms_count{partition="0"}')) > 0, {
      what: 'the right worker to fire',
      timeoutMs: 20_000,
    });
    await checkout();
    await untilNonePending(fleet.database, 15_000);
    const { leastMs, mostMs } = await cancellations();
    expect(leastMs).toBeGreaterThanOrEqual(0);
    expect(mostMs).toBeLessThan(3000);
    await waitFor(async () => sum(await fires(right)) > 0, { what: 'jobs to fire at the right worker' });
    // None was promoted early, to be delayed again: an order's job fires once, even where the sweeper was faster.
    const fired = await fires(right);
    expect(fired.get('not_due') ?? 0).toBeLessThan(5);
    firedCount += sum(fired);
    expect(firedCount).toBeLessThan(placedCount + 5);
    expect(sum(await fires(skewed))).toBe(0);
  });
});
