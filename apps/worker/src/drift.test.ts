import { randomUUID } from 'node:crypto';
import type { Deadlines } from '@lapse/deadlines';
import { waitFor } from '@lapse/devstack';
import type { Orders } from '@lapse/orders';
import { createMetrics, type Service } from '@lapse/runtime';
import { beforeEach, expect, test, vi } from 'vitest';
import { drift } from './drift.ts';
import { openStage, silent, type Stage } from './testing.ts';

const allPartitions = Array.from({ length: 16 }, (_, partition) => partition);

let stage: Stage;
let running: Service | undefined;

beforeEach(async () => {
  stage = await openStage();
  return async () => {
    await running?.stop();
    await stage.close();
  };
});

/** Starts to compare, with some calls replaced; returns what the gauge shows and what was logged. */
async function start(
  changes: { orders?: Partial<Orders>; deadlines?: Partial<Deadlines>; isRight?: boolean } = {},
) {
  const metrics = createMetrics();
  const info = vi.spyOn(silent, 'info');
  const error = vi.spyOn(silent, 'error');
  const clock = { isRight: vi.fn<() => boolean>(() => changes.isRight ?? true) };
  running = drift({
    orders: { ...stage.orders, ...changes.orders },
    deadlines: { ...stage.deadlines, ...changes.deadlines },
    partitions: () => Promise.resolve(allPartitions),
    clock,
    log: silent,
    metrics,
  });
  await running.start();
  const name = 'lapse_drift_rows_without_job';
  const rowsShown = async (): Promise<string | undefined> =>
    (await metrics.getSingleMetricAsString(name)).split('\n').find((line) => line.startsWith(name));
  return {
    clock,
    info,
    error,
    rowsShown,
    untilShown: (count: number) =>
      waitFor(async () => (await rowsShown()) === `${name} ${count}`, { what: 'the round' }),
  };
}

test('a page that lacks much is armed, and its partitions are rebuilt', async () => {
  await stage.placeUnarmed(200);
  const { rowsShown, untilShown } = await start();
  expect(await rowsShown()).toBeUndefined();
  await untilShown(200);
  const all = await stage.orders.pendingPage({ after: null, limit: 1000, partitions: null });
  expect(all.deadlines).toHaveLength(200);
  expect(await stage.deadlines.lacking(all.deadlines)).toEqual([]);
  const [rebuild, ...others] = await stage.rebuilds();
  expect(rebuild?.reason).toBe('many jobs are missing');
  expect(rebuild?.partitions?.toSorted()).toEqual([0, 1]);
  expect(others).toEqual([]);
});

test('what a thaw has moved, and arms a moment later, lacks nothing', async () => {
  await stage.placeUnarmed(200);
  const { untilShown } = await start({
    deadlines: {
      async lacking(page) {
        const found = await stage.deadlines.lacking(page);
        await stage.deadlines.armMany(found);
        return found;
      },
    },
  });
  await untilShown(0);
  expect(await stage.rebuilds()).toEqual([]);
});

test('a partition that takes no jobs is not rebuilt again and again', async () => {
  await stage.placeUnarmed(200);
  const { untilShown } = await start({
    deadlines: {
      async armMany(page) {
        const answer = await stage.deadlines.armMany(page.filter(({ partition }) => partition === 0));
        return { ...answer, failed: page.length - answer.armed, failedPartitions: new Set([1]) };
      },
    },
  });
  await untilShown(200);
  expect(await stage.rebuilds()).toMatchObject([{ partitions: [0] }]);
});

test('a page of jobs without orders goes, though the rows cannot be compared', async () => {
  const { deadlines } = stage;
  // From now on each partition has only a part of the calls under way.
  await Promise.all(allPartitions.map((partition) => deadlines.disarm({ orderId: randomUUID(), partition })));
  const orphan = { partition: 0, createdAt: new Date(), expireAt: new Date(Date.now() + 3_600_000) };
  await deadlines.armMany(Array.from({ length: 1000 }, () => ({ orderId: randomUUID(), ...orphan })));
  const { info, error } = await start({
    orders: { pendingPage: () => Promise.reject(new Error('the rows cannot be read')) },
  });
  await waitFor(() => info.mock.calls.length > 0, { what: 'the jobs to be removed' });
  expect(info).toHaveBeenCalledWith(
    { partition: 0, jobCount: 1000, failed: 0 },
    'jobs without an order were removed',
  );
  expect((await deadlines.depths([0])).get(0)?.delayed).toBe(0);
  await waitFor(() => error.mock.calls.length > 0, { what: 'the failure to be told' });
});

test('by a wrong clock nothing is compared', async () => {
  const reachable = vi.fn<Deadlines['reachable']>(() => Promise.resolve(true));
  const { clock } = await start({ deadlines: { reachable }, isRight: false });
  await waitFor(() => clock.isRight.mock.calls.length > 0, { what: 'the clock to be asked' });
  await running?.stop();
  expect(reachable).not.toHaveBeenCalled();
});
