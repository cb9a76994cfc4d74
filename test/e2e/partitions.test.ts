import { setTimeout as sleep } from 'node:timers/promises';

import { createClient, type LapseClient } from '@lapse/client';
import { createDeadlines, type Deadlines } from '@lapse/deadlines';
import { inParallel, waitFor, type RunningApp } from '@lapse/devstack';
import { createLog, createMetrics } from '@lapse/runtime';
import { afterEach, beforeEach, expect, test } from 'vitest';

import { apiKey, startFleet, untilNonePending, type Fleet } from './fleet.ts';

const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];
let fleet: Fleet;
let deadlines: Deadlines;

beforeEach(async () => {
  fleet = await startFleet({ apiCount: 0, workerCount: 0 });
  deadlines = createDeadlines({
    redisUrl: fleet.redisUrl,
    log: createLog('test', 'error'),
    metrics: createMetrics(),
  });
  await waitFor(() => deadlines.reachable(), { what: 'Redis' });
});

afterEach(async () => {
  await deadlines.stop();
  await fleet.expectInvariants();
  await fleet.stop();
});

const add = (app: 'api' | 'worker', partitionCount: number): Promise<RunningApp> =>
  fleet.add(app, { LAPSE_PARTITIONS: String(partitionCount) });
const clientOf = (api: RunningApp): LapseClient => createClient({ baseUrl: api.url, apiKey });

/** How many jobs have ended in each partition: those of the tests before, too. */
async function endedCounts(): Promise<readonly number[]> {
  const depths = await deadlines.depths(allPartitions);
  return allPartitions.map((partition) => depths.get(partition)?.completed ?? 0);
}

/** In which partitions jobs ended since. Whether a job or the sweeper is first at its order is chance: not asked. */
async function firedIn(before: readonly number[]): Promise<readonly number[]> {
  const counts = await endedCounts();
  return allPartitions.filter((partition) => (counts[partition] ?? 0) > (before[partition] ?? 0));
}

/** A job whose order was swept before it came to it fires all the same, wherever it is. */
async function untilAllFired(): Promise<void> {
  await waitFor(async () => (await deadlines.occupiedPartitions()).length === 0, {
    what: 'every job to fire',
    timeoutMs: 25_000,
  });
}

const allPartitions = Array.from({ length: 8 }, (_, partition) => partition);

test('a worker that knows fewer partitions consumes all that pending orders name', async () => {
  const before = await endedCounts();
  const client = clientOf(await add('api', 8));
  await client.setStock('mug', null);
  // One after the other: a crowd would be swept, and the comparison of jobs and rows may remove what is left of it.
  await inParallel(64, 64, (n) =>
    client.checkout({ currency: 'EUR', items, paymentWindowMs: 4000 + 50 * n }),
  );
  const worker = await add('worker', 1);
  await untilNonePending(fleet.database, 15_000);

  await untilAllFired();
  expect(await firedIn(before)).toEqual(allPartitions);
  await worker.stop();
});

test('a job that stayed behind in a partition that nobody uses any more fires', async () => {
  const client = clientOf(await add('api', 1));
  await client.setStock('mug', null);
  const { id } = await client.checkout({ currency: 'EUR', items, paymentWindowMs: 60_000 });
  await client.cancel(id);
  const at = new Date();
  await deadlines.armMany([{ orderId: id, partition: 5, createdAt: at, expireAt: at }]);
  expect(await deadlines.occupiedPartitions()).toEqual([5]);
  await add('worker', 1);
  await untilAllFired();
});

test('partitions are raised from 2 to 6 and lowered to 1 under load, and the jobs of all of them fire', async () => {
  const before = await endedCounts();
  let api = await add('api', 2);
  let workers = [await add('worker', 2), await add('worker', 2)];
  const retired: RunningApp[] = [];
  const stops: Promise<unknown>[] = [];
  const retire = (app: RunningApp): void => {
    retired.push(app);
    stops.push(app.stop());
  };
  await clientOf(api).setStock('mug', null);

  const load = new AbortController();
  let orderCount = 0;
  const loading = inParallel(2, 2, async () => {
    while (!load.signal.aborted) {
      orderCount += 1;
      const paymentWindowMs = 1500 + ((orderCount * 37) % 1500);
      await clientOf(api).checkout({ currency: 'EUR', items, paymentWindowMs });
      await sleep(10);
    }
  });
  const replaceApi = async (partitionCount: number): Promise<void> => {
    const old = api;
    api = await add('api', partitionCount);
    retire(old);
  };
  const replaceWorkers = async (partitionCount: number): Promise<void> => {
    for (const old of workers) {
      const young = await add('worker', partitionCount);
      workers = [...workers.filter((worker) => worker !== old), young];
      retire(old);
    }
  };
  const untilPlacedIn = (partitions: readonly number[]) =>
    waitFor(
      async () => {
        const { rows } = await fleet.database.query<{ partition: number }>(
          "select distinct partition from orders where created_at > clock_timestamp() - interval '1 s' order by 1",
        );
        return rows.map(({ partition }) => partition).join() === partitions.join();
      },
      { what: `orders in the partitions ${partitions.join()} alone`, timeoutMs: 10_000 },
    );

  await untilPlacedIn([0, 1]);
  // Raised: first who consumes, then who fills. Lowered: the other way round.
  await replaceWorkers(6);
  await replaceApi(6);
  await untilPlacedIn([0, 1, 2, 3, 4, 5]);
  await replaceApi(1);
  await replaceWorkers(1);
  await untilPlacedIn([0]);
  load.abort();
  await loading;
  await untilNonePending(fleet.database, 15_000);

  await Promise.all(stops);
  await untilAllFired();
  expect(await firedIn(before)).toEqual([0, 1, 2, 3, 4, 5]);
  await Promise.all([api, ...workers].map((app) => app.stop()));
  // Not a canary is left, nor did one of them, or an epoch, raise an alarm.
  const depths = await deadlines.depths(allPartitions);
  expect(
    [...depths.values()].filter(({ delayed, waiting, active }) => delayed + waiting + active > 0),
  ).toEqual([]);
  const alarms = [api, ...workers, ...retired].flatMap((app) =>
    app.logs().filter((line) => /"level":"(?:warn|error|fatal)"/.test(line)),
  );
  expect(alarms).toEqual([]);
}, 60_000);
