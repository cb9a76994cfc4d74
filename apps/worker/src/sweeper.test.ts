import { createTestDatabase, inParallel, waitFor } from '@lapse/devstack';
import { createOrders, type Orders } from '@lapse/orders';
import { createLog, createMetrics, openDatabase, type Metrics } from '@lapse/runtime';
import { beforeEach, describe, expect, inject, test, vi } from 'vitest';
import { sweeper, type Sweeper } from './sweeper.ts';

const orderCount = 2500;

let orders: Orders;
let sweep: Sweeper;
let metrics: Metrics;
let ids: readonly string[];
let countPending: () => Promise<number>;

beforeEach(async () => {
  const own = await createTestDatabase({
    adminUrl: inject('databaseUrl'),
    template: inject('templateDatabase'),
  });
  const log = createLog('test', 'error');
  const database = openDatabase({ url: own.url, app: 'test', log });
  orders = createOrders({ database });
  metrics = createMetrics();
  sweep = sweeper({ orders, close: () => undefined, log, metrics });
  await orders.setStock('mug', 10_000);
  ids = await inParallel(orderCount, orderCount, async () => {
    const answer = await orders.checkout({
      reference: null,
      channel: 'default',
      paymentMethod: 'card',
      currency: 'EUR',
      items: [{ sku: 'mug', quantity: 1, unitAmount: 100 }],
      paymentWindowMs: 600_000,
      metadata: {},
      actor: 'test',
    });
    return answer.outcome === 'placed' ? answer.order.id : '';
  });
  await database.query(`
    update orders set created_at = created_at - interval '10 minutes',
      deadline_at = clock_timestamp(), expire_at = clock_timestamp(), check_at = clock_timestamp()`);
  countPending = async () => {
    const { rows } = await database.query<{ count: number }>(
      "select count(*) from orders where status = 'pending_payment'",
    );
    return rows[0]?.count ?? 0;
  };
  return async () => {
    await sweep.stop();
    await database.end();
    await own.drop();
  };
});

describe('fired jobs', () => {
  test('are looked at one batch at a time while few are due', async () => {
    const answers = await sweep.expire(ids.slice(0, 10));
    expect([...answers.values()].filter(({ answer }) => answer === 'cancelled')).toHaveLength(10);
    expect(await countPending()).toBe(orderCount - 10);
  });

  test('that are a crowd let all that is due be swept, and those that follow only confirm it', async () => {
    const crowd = await sweep.expire(ids.slice(0, 60));
    expect([...crowd.values()].filter(({ answer }) => answer === 'cancelled')).toHaveLength(60);
    await waitFor(async () => (await countPending()) === 0, { what: 'the burst to be drained' });
    const followers = await sweep.expire(ids.slice(60));
    expect(new Set([...followers.values()].map(({ answer }) => answer))).toEqual(new Set(['settled']));
    expect(await orders.readStock('mug')).toMatchObject({ onHand: 10_000, held: 0 });
    expect(await countSwept()).toEqual({ true: orderCount - 60, false: 0 });
  });

  test('that are a crowd let nothing be swept any more when the sweeper has stopped', async () => {
    const sweeps = vi.spyOn(orders, 'sweep');
    await sweep.expire(ids.slice(0, 60));
    await sweep.stop();
    expect(sweeps.mock.settledResults.map(({ type }) => type)).toEqual(['fulfilled']);
    await sweep.expire(ids.slice(60, 120));
    expect(sweeps).toHaveBeenCalledTimes(1);
  });

  test('that come while it is swept are answered all the same', async () => {
    const batches = Array.from({ length: 25 }, (_, n) => ids.slice(n * 100, n * 100 + 100));
    const all = await Promise.all(batches.map((batch) => sweep.expire(batch)));
    const answers = all.flatMap((one) => Array.from(one.values(), ({ answer }) => answer));
    expect(answers).toHaveLength(orderCount);
    expect(new Set(['cancelled', 'settled', ...answers])).toEqual(new Set(['cancelled', 'settled']));
    expect(await countPending()).toBe(0);
    expect(await orders.readStock('mug')).toMatchObject({ held: 0 });
  });
});

test('what is swept though no job fired is counted by itself, however much it is', async () => {
  await sweep.start();
  await waitFor(async () => (await countPending()) === 0, { what: 'all to be swept' });
  await sweep.stop();
  expect(await countSwept()).toEqual({ true: 0, false: orderCount });
});

/** Orders that were swept, by whether that was a burst. */
async function countSwept(): Promise<Record<string, number>> {
  const { values } = (await metrics.getSingleMetric('lapse_sweep_cancelled_total')?.get()) ?? { values: [] };
  return Object.fromEntries(values.map(({ labels, value }) => [String(labels['burst']), value]));
}
