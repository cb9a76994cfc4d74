import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { partitionQueueName } from '@lapse/deadlines';
import { startRedisCluster, waitFor, type RedisCluster, type RedisMember } from '@lapse/devstack';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { cancellationsSince, describeLateness, readBoard, startLoad, untilJobsFire } from './failover.ts';
import { metric, runScript, startFleet, untilNonePending, type Fleet } from './fleet.ts';

const partitions = [0, 1, 2, 3, 4, 5, 6, 7];

let dataDir: string;
let cluster: RedisCluster;
let fleet: Fleet;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lapse-redis-cluster-'));
  cluster = await startRedisCluster({ dataDir, masters: 3, replicasPerMaster: 1 });
  fleet = await startFleet({ redisUrl: cluster.url, env: { LAPSE_PARTITIONS: String(partitions.length) } });
  await fleet.client.setStock('mug', null);
});

afterAll(async () => {
  await fleet.expectInvariants();
  await fleet.stop();
  await cluster.stop();
  await rm(dataDir, { recursive: true, force: true });
});

async function redisState(url: string): Promise<unknown> {
  const ready = await fetch(`${url}/readyz`);
  expect(ready.status).toBe(200);
  return Reflect.get(Object(await ready.json()), 'redis');
}

/** The node of partition 0, and all partitions that live there. */
async function findVictim(): Promise<{ victim: RedisMember; struck: readonly number[] }> {
  const nodes = await Promise.all(
    partitions.map((partition) => cluster.masterOf(partitionQueueName(partition))),
  );
  const [victim] = nodes;
  if (victim === undefined) throw new Error('partition 0 has no node');
  return { victim, struck: partitions.filter((partition) => nodes[partition] === victim) };
}

test('jobs of every partition fire, on whichever node it lives', async () => {
  const fired = await untilJobsFire(fleet, partitions, 20_000);
  expect([...fired].toSorted((a, b) => a - b)).toEqual(partitions);
});

test('a master killed under load: every checkout is taken, every order settles, and jobs fire again', async () => {
  const { victim, struck } = await findVictim();
  const load = startLoad(fleet);
  await waitFor(async () => (await metric(api(), 'lapse_deadlines_armed_total')) > 300, {
    what: 'the load to run',
    timeoutMs: 20_000,
  });
  const killedAt = new Date();
  await victim.kill();
  await waitFor(() => cluster.masterOf(partitionQueueName(0)), {
    what: 'a replica to take over',
    timeoutMs: 30_000,
  });
  const takenOverAt = new Date();
  await untilJobsFire(fleet, struck, 40_000);
  const firedAgainAt = new Date();
  const { placedCount, paidCount, slowestMs } = await load.stop();
  await untilNonePending(fleet.database, 20_000);
  await fleet.expectInvariants();

  const cancelled = await cancellationsSince(fleet.database, killedAt);
  const isStruck = ({ partition }: { partition: number }): boolean => struck.includes(partition);
  const replaced = await Promise.all(
    fleet.workers.map(async (worker) =>
      (
        await Promise.all(
          partitions.map((p) => metric(worker, `lapse_worker_replacements_total{partition="${p}"}`)),
        )
      ).reduce((sum, count) => sum + count, 0),
    ),
  );
  console.log(
    [
      `a replica took over after ${takenOverAt.getTime() - killedAt.getTime()} ms, jobs fired in all of the victim's ` +
        `partitions (${struck.join(', ')}) ${firedAgainAt.getTime() - takenOverAt.getTime()} ms later`,
      `${placedCount} checkouts, ${paidCount} paid, the slowest answered after ${slowestMs} ms; ` +
        `queue workers replaced: ${replaced.join(', ')}`,
      describeLateness("the victim's partitions", cancelled.filter(isStruck)),
      describeLateness(
        'the others',
        cancelled.filter((one) => !isStruck(one)),
      ),
    ].join('\n'),
  );
  expect(fleet.workers.map((worker) => worker.logs().some((line) => line.includes('giving up')))).toEqual([
    false,
    false,
  ]);

  await victim.restart();
  await cluster.untilWhole();
  await waitFor(async () => (await redisState(api().url)) === 'ok', {
    what: 'the api to reach all nodes',
    timeoutMs: 10_000,
  });
}, 120_000);

test('ops and the command line work on a cluster', async () => {
  const order = await fleet.client.checkout({
    currency: 'EUR',
    items: [{ sku: 'mug', quantity: 1, unitAmount: 100 }],
    paymentWindowMs: 600_000,
  });
  const ops = await fleet.add('ops');
  expect(await redisState(ops.url)).toBe('ok');
  const queues = await readBoard(ops);
  // And that of the reminders.
  expect(queues).toHaveLength(partitions.length + 1);
  expect(queues.reduce((sum, { counts }) => sum + counts.delayed, 0)).toBeGreaterThanOrEqual(1);

  const env = { DATABASE_URL: fleet.databaseUrl, REDIS_URL: cluster.url, LAPSE_LOG_LEVEL: 'warn' };
  const drift = await runScript('apps/cli/src/main.ts', ['drift'], env);
  expect(drift.output).toContain('1 pending orders, 0 without a delayed job.');
  expect(drift.output).toContain('1 delayed jobs, 0 without a pending order.');
  const rebuild = await runScript('apps/cli/src/main.ts', ['rebuild'], env);
  expect(rebuild.output).toContain('Armed 1 deadlines');
  expect((await fleet.client.timeline(order.id)).job?.state).toBe('delayed');
  await fleet.client.cancel(order.id);
});

function api() {
  const [first] = fleet.apis;
  if (first === undefined) throw new Error('there is no api');
  return first;
}
