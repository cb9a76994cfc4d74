import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { partitionQueueName } from '@lapse/deadlines';
import { inParallel, startRedisCluster, waitFor, type RedisCluster, type RedisMember } from '@lapse/devstack';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { readBoard } from './failover.ts';
import { startFleet, type Fleet } from './fleet.ts';

const partitions = [0, 1, 2, 3, 4, 5, 6, 7];
const orderCount = 80;

let dataDir: string;
let cluster: RedisCluster;
let fleet: Fleet;
/** Where each partition lives. */
let nodes: readonly (RedisMember | undefined)[];
/** The orders of each partition. */
let orders: ReadonlyMap<number, readonly string[]>;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lapse-redis-cluster-away-'));
  // Without replicas: nobody takes over.
  cluster = await startRedisCluster({
    dataDir,
    replicasPerMaster: 0,
    settings: { appendfsync: 'always' },
  });
  fleet = await startFleet({ redisUrl: cluster.url, env: { LAPSE_PARTITIONS: String(partitions.length) } });
  await fleet.client.setStock('mug', null);
  const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];
  await inParallel(orderCount, 8, () =>
    fleet.client.checkout({ currency: 'EUR', items, paymentWindowMs: 3_600_000 }),
  );
  const { rows } = await fleet.database.query<{ id: string; partition: number }>(
    'select id::text, partition from orders',
  );
  orders = new Map(
    [...Map.groupBy(rows, ({ partition }) => partition)].map(([partition, those]) => [
      partition,
      those.map(({ id }) => id),
    ]),
  );
  nodes = await Promise.all(partitions.map((partition) => cluster.masterOf(partitionQueueName(partition))));
  await untilArmed(partitions);
});

afterAll(async () => {
  await fleet.expectInvariants();
  await fleet.stop();
  await cluster.stop();
  await rm(dataDir, { recursive: true, force: true });
});

/** Waits until every order of these partitions has its job, and no rebuild is under way. */
async function untilArmed(wanted: readonly number[]): Promise<void> {
  const ids = wanted.flatMap((partition) => orders.get(partition) ?? []);
  await waitFor(
    async () => {
      const timelines = await inParallel(ids.length, 8, (n) => fleet.client.timeline(ids[n] ?? ''));
      return timelines.every(({ job }) => job?.state === 'delayed') && (await rebuildsUnderWay()) === 0;
    },
    { what: `the jobs of partitions ${wanted.join(', ')}`, timeoutMs: 20_000 },
  );
}

async function rebuildsUnderWay(): Promise<number> {
  const { rows } = await fleet.database.query<{ count: number }>(
    'select count(*) from rebuilds where done_at is null',
  );
  return rows[0]?.count ?? 0;
}

/** Empties a node. */
async function flush({ port }: RedisMember): Promise<void> {
  const redis = new Redis(port, '127.0.0.1');
  await redis.flushall();
  redis.disconnect();
}

const partitionsOf = (node: RedisMember): readonly number[] =>
  partitions.filter((partition) => nodes[partition] === node);

/** Asks for all partitions, waits until it is done, and returns how many deadlines were armed. */
async function rebuildWithout(node: RedisMember): Promise<number> {
  await fleet.database.query('delete from rebuilds');
  const { rows } = await fleet.database.query<{ id: string }>(
    `insert into rebuilds (id, reason, actor, partitions, started_at)
     values (gen_random_uuid(), 'by hand', 'test', null, clock_timestamp()) returning id`,
  );
  return waitFor(
    async () => {
      const { rows: done } = await fleet.database.query<{ count: number }>(
        'select armed_count as count from rebuilds where id = $1 and done_at is not null',
        [rows[0]?.id],
      );
      return done[0]?.count;
    },
    { what: `the rebuild to end without partitions ${partitionsOf(node).join(', ')}`, timeoutMs: 20_000 },
  );
}

async function untilOwedRebuildOf(node: RedisMember): Promise<void> {
  await waitFor(
    async () => {
      const { rows } = await fleet.database.query<{ partitions: number[] | null }>(
        "select partitions from rebuilds where reason = 'a node of redis was away' and done_at is not null",
      );
      return partitionsOf(node).every((partition) => rows.some((row) => row.partitions?.includes(partition)));
    },
    { what: 'the owed rebuild', timeoutMs: 20_000 },
  );
}

test('while a node is away, jobs that another one lost are armed again; those of the node when it is back', async () => {
  const [away] = nodes;
  const other = nodes.find((node) => node !== away);
  if (away === undefined || other === undefined) throw new Error('partitions lie on one node only');
  const reachable = partitions.filter((partition) => nodes[partition] !== away);

  await away.kill();
  await flush(other);
  await untilArmed(reachable);

  const queues = await readBoard(await fleet.add('ops'));
  expect(
    partitions.filter((partition) => !queues[partition]?.description.includes('does not answer')),
  ).toEqual(reachable);
  for (const partition of reachable) {
    expect(queues[partition]?.counts.delayed).toBeGreaterThanOrEqual(orders.get(partition)?.length ?? 0);
  }

  // All of them are asked for: the rebuild ends without those of the node that is away, which are owed.
  await rebuildWithout(away);
  await away.restart();
  await untilArmed(partitions);
  await untilOwedRebuildOf(away);
  const logs = fleet.workers.flatMap((worker) => worker.logs());
  expect(logs.filter((line) => line.includes('is replaced') || line.includes('giving up'))).toEqual([]);
});

test('while a node takes no writes the others are rebuilt; its own partitions when it takes them again', async () => {
  const [full] = nodes;
  if (full === undefined) throw new Error('partition 0 lies nowhere');
  const redis = new Redis(full.port, '127.0.0.1');
  await redis.flushall();
  await redis.config('SET', 'min-replicas-to-write', 1);
  const others = partitions.filter((partition) => nodes[partition] !== full);
  const count = others.reduce((sum, partition) => sum + (orders.get(partition)?.length ?? 0), 0);
  expect(await rebuildWithout(full)).toBe(count);
  await redis.config('SET', 'min-replicas-to-write', 0);
  redis.disconnect();
  await untilOwedRebuildOf(full);
  await untilArmed(partitions);
});
