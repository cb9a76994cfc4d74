import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startRedisCluster, waitFor, type RedisCluster, type RedisMember } from '@lapse/devstack';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { partitionQueueName } from './catalog.ts';
import type { Deadlines } from './deadlines.ts';
import { connectedDeadlines, newDeadline } from './testing.ts';

const partitions = [0, 1, 2, 3, 4, 5, 6, 7];
const minuteMs = 60_000;

let dataDir: string;
let cluster: RedisCluster;
let deadlines: Deadlines;
/** The node of partition 0, and the partitions that live there. */
let victim: RedisMember;
let away: readonly number[];
let others: readonly number[];

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lapse-cluster-'));
  // Without replicas: nobody takes over while a node is away.
  cluster = await startRedisCluster({ dataDir, replicasPerMaster: 0 });
  ({ deadlines } = await connectedDeadlines(cluster.url));
  const nodes = await Promise.all(
    partitions.map((partition) => cluster.masterOf(partitionQueueName(partition))),
  );
  const [first] = nodes;
  if (first === undefined) throw new Error('partition 0 has no node');
  victim = first;
  away = partitions.filter((partition) => nodes[partition] === victim);
  others = partitions.filter((partition) => nodes[partition] !== victim);
});

afterAll(async () => {
  await deadlines.stop();
  await cluster.stop();
  await rm(dataDir, { recursive: true, force: true });
});

beforeEach(async () => {
  await waitFor(async () => (await deadlines.problem()) === undefined, {
    what: 'all nodes to answer',
    timeoutMs: 20_000,
  });
});

const armEach = (numbers: readonly number[]): Promise<readonly string[]> =>
  Promise.all(numbers.map((partition) => deadlines.arm(newDeadline(minuteMs, { partition }))));

test('reminders are armed, moved and disarmed on the node of their queue', async () => {
  const orderIds = Array.from({ length: 20 }, () => newDeadline(0).orderId);
  const at = (inMs: number) =>
    orderIds.map((orderId) => ({ orderId, remindAt: new Date(Date.now() + inMs) }));
  await deadlines.armReminders(at(minuteMs));
  await deadlines.armReminders(at(2 * minuteMs));
  const found = await Promise.all(orderIds.map((orderId) => deadlines.inspectReminder(orderId)));
  expect(found.map((job) => (job?.firesAt?.getTime() ?? 0) > Date.now() + minuteMs)).toEqual(
    orderIds.map(() => true),
  );
  await Promise.all(orderIds.map((orderId) => deadlines.disarmReminder(orderId)));
  expect(await deadlines.reminderQueue().getDelayedCount()).toBe(0);
});

/** What every call says while the victim is away. */
async function expectOnlyVictimAway(): Promise<void> {
  expect(await armEach(others)).toEqual(others.map(() => 'armed'));
  expect(await armEach(away)).toEqual(away.map(() => 'failed'));
  const many = [...others, ...away].map((partition) => newDeadline(minuteMs, { partition }));
  expect(await deadlines.armMany(many)).toEqual({
    armed: others.length,
    failed: away.length,
    failedPartitions: new Set(away),
  });
  expect(await deadlines.disarmMany(many)).toEqual({ disarmed: others.length, failed: away.length });
  expect([...(await deadlines.depths(partitions)).keys()]).toEqual(others);
  expect([...(await deadlines.epochs(partitions)).keys()]).toEqual(others);
  await deadlines.markEpoch(partitions, 'marked');
  expect([...(await deadlines.epochs(partitions)).values()]).toEqual(others.map(() => 'marked'));
  const never = partitions.map((partition) => newDeadline(minuteMs, { partition }));
  expect(await deadlines.lacking(never)).toEqual(never.filter(({ partition }) => others.includes(partition)));
  const lost = newDeadline(minuteMs, { partition: away[0] ?? 0 });
  await expect(deadlines.inspect(lost)).rejects.toThrow();
  await deadlines.disarm(lost);
  expect(await deadlines.reachable()).toBe(true);
  expect(await deadlines.problem()).toBe('1 of 3 nodes unreachable');
}

test('the partitions lie on all nodes, and each takes its jobs', async () => {
  expect(away.length).toBeLessThan(partitions.length / 2);
  expect(await armEach(partitions)).toEqual(partitions.map(() => 'armed'));
  const depths = await deadlines.depths(partitions);
  expect(partitions.map((partition) => depths.get(partition)?.delayed)).toEqual(partitions.map(() => 1));
});

test('a first burst of arms to nodes that no connection was made to arrives whole', async () => {
  const { deadlines: fresh } = await connectedDeadlines(cluster.url);
  const before = (await fresh.depths([0])).get(0)?.delayed ?? 0;
  const burst = Array.from({ length: 500 }, (_, n) => newDeadline(minuteMs, { partition: n % 8 }));
  expect(new Set(await Promise.all(burst.map((deadline) => fresh.arm(deadline))))).toEqual(
    new Set(['armed']),
  );
  expect((await fresh.depths([0])).get(0)?.delayed).toBe(before + 63);
  await fresh.stop();
});

test('a node that was killed takes only its own partitions along, and they are back when it is', async () => {
  await victim.kill();
  await waitFor(async () => (await deadlines.problem()) !== undefined, { what: 'the loss to be noticed' });
  await expectOnlyVictimAway();
  await victim.restart();
  await cluster.untilWhole();
  await waitFor(async () => (await armEach(away)).every((outcome) => outcome === 'armed'), {
    what: 'the partitions of the node to be armed again',
    timeoutMs: 10_000,
  });
});

test('a node that is silent takes only its own partitions along', async () => {
  victim.pause();
  await expectOnlyVictimAway();
  victim.resume();
  await waitFor(async () => (await armEach(away)).every((outcome) => outcome === 'armed'), {
    what: 'the partitions of the node to be armed again',
    timeoutMs: 20_000,
  });
});

test('a node that takes no writes is left out where they are asked for', async () => {
  const node = new Redis(victim.port, '127.0.0.1');
  await deadlines.markEpoch(partitions, 'marked');
  await node.config('SET', 'min-replicas-to-write', 1);
  expect(await deadlines.epochs(partitions)).toEqual(new Map(partitions.map((one) => [one, 'marked'])));
  const writable = await deadlines.epochs(partitions, { writableOnly: true });
  expect(writable).toEqual(new Map(others.map((partition) => [partition, 'marked'])));
  const many = partitions.map((partition) => newDeadline(minuteMs, { partition }));
  expect((await deadlines.armMany(many)).failedPartitions).toEqual(new Set(away));
  await expect(deadlines.epochs(away, { writableOnly: true })).rejects.toThrow('NOREPLICAS');
  await node.config('SET', 'min-replicas-to-write', 0);
  expect([...(await deadlines.epochs(partitions, { writableOnly: true })).keys()]).toEqual(partitions);
  node.disconnect();
});

test('while all nodes are away every call fails, and all works again when they are back', async () => {
  await Promise.all(cluster.nodes.map((node) => node.kill()));
  await waitFor(async () => (await deadlines.problem()) === 'unreachable', {
    what: 'the loss to be noticed',
  });
  expect(await armEach(partitions)).toEqual(partitions.map(() => 'failed'));
  await expect(deadlines.epochs(partitions)).rejects.toThrow();
  await expect(deadlines.depths(partitions)).rejects.toThrow();
  expect(await deadlines.reachable()).toBe(false);
  await Promise.all(cluster.nodes.map((node) => node.restart()));
  await cluster.untilWhole();
  await waitFor(async () => (await armEach(partitions)).every((outcome) => outcome === 'armed'), {
    what: 'all partitions to be armed again',
    timeoutMs: 20_000,
  });
});
