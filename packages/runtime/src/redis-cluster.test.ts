import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startRedisCluster, waitFor, type RedisCluster, type RedisMember } from '@lapse/devstack';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { createLog } from './log.ts';
import { connectRedis, countNodes, type RedisConnection, type RedisRole } from './redis.ts';

let dataDir: string;
let cluster: RedisCluster;
let victim: RedisMember;
const connections: RedisConnection[] = [];

/** Keys on the node that is struck, and on another. */
const struck = 'a';
let safe: string;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lapse-redis-roles-'));
  // Without replicas: nobody takes over.
  cluster = await startRedisCluster({
    dataDir,
    replicasPerMaster: 0,
    settings: { 'cluster-node-timeout': 1000 },
  });
  victim = await masterOf(struck);
  for (const key of ['b', 'c', 'd', 'e', 'f']) if ((await masterOf(key)) !== victim) safe = key;
});

afterEach(async () => {
  for (const redis of connections.splice(0)) redis.disconnect();
  if (!victim.isRunning) await victim.restart();
  await cluster.untilWhole();
});

afterAll(async () => {
  await cluster.stop();
  await rm(dataDir, { recursive: true, force: true });
});

async function masterOf(key: string): Promise<RedisMember> {
  const node = await cluster.masterOf(key);
  if (node === undefined) throw new Error(`${key} has no node`);
  return node;
}

async function connect(role: RedisRole, log = createLog('test', 'silent')): Promise<RedisConnection> {
  const redis = connectRedis({ url: cluster.url, role, log });
  connections.push(redis);
  await new Promise<void>((resolve) => redis.once('ready', () => resolve()));
  return redis;
}

test('a producer fails at once for a node that is gone, and only for it, until it is back', async () => {
  const redis = await connect('producer');
  expect(await Promise.all([redis.set(struck, 1), redis.set(safe, 1)])).toEqual(['OK', 'OK']);
  await victim.kill();
  // Nothing brings the node back meanwhile: were this to wait for it, it would never end.
  for (let time = 0; time < 3; time += 1) {
    await expect(redis.set(struck, 2)).rejects.toThrow();
    const [reply] = (await redis.pipeline().set(struck, 2).get(struck).exec()) ?? [];
    expect(reply?.[0]).toBeInstanceOf(Error);
    expect(await redis.set(safe, 2)).toBe('OK');
  }
  expect(await countNodes(redis)).toEqual({ answering: 2, all: 3 });
  await victim.restart();
  await waitFor(() => redis.set(struck, 3).catch(() => false), { what: 'the node to take commands again' });
  expect(await countNodes(redis)).toEqual({ answering: 3, all: 3 });
});

test('a producer waits 500 ms for a node that is silent', async () => {
  const redis = await connect('producer');
  victim.pause();
  await expect(redis.set(struck, 1)).rejects.toThrow('Command timed out');
  const [reply] = (await redis.pipeline().set(struck, 2).exec()) ?? [];
  expect(reply?.[0]?.message).toBe('Command timed out');
  expect(await redis.set(safe, 1)).toBe('OK');
  victim.resume();
});

test('a producer that begins while the whole cluster is away fails at once', async () => {
  const redis = connectRedis({
    url: 'redis+cluster://127.0.0.1:9,127.0.0.1:10',
    role: 'producer',
    log: createLog('test', 'silent'),
  });
  connections.push(redis);
  await expect(redis.set(struck, 1)).rejects.toThrow('no node of the redis cluster answers');
  await expect(redis.pipeline().set(struck, 1).exec()).rejects.toThrow(
    'no node of the redis cluster answers',
  );
  expect(await countNodes(redis)).toEqual({ answering: 0, all: 0 });
});

test('the first pipeline to a node is sent whole', async () => {
  const redis = await connect('producer');
  expect(await redis.pipeline().set(struck, 1).get(struck).exec()).toEqual([
    [null, 'OK'],
    [null, '1'],
  ]);
});

test('a worker waits for a node to be back', async () => {
  const redis = await connect('worker');
  await redis.set(struck, 1);
  await victim.kill();
  const asked = redis.set(struck, 'patience');
  expect(await redis.set(safe, 1)).toBe('OK');
  await victim.restart();
  expect(await asked).toBe('OK');
});

test('loss and return of a node are logged once each', async () => {
  const log = createLog('test', 'silent');
  const warn = vi.spyOn(log, 'warn').mockImplementation(() => undefined);
  const info = vi.spyOn(log, 'info').mockImplementation(() => undefined);
  const redis = await connect('producer', log);
  await victim.kill();
  for (let time = 0; time < 3; time += 1) await redis.set(struck, 1).catch(() => undefined);
  await waitFor(() => warn.mock.calls.length > 0, { what: 'the loss to be logged' });
  await victim.restart();
  await waitFor(() => redis.set(struck, 2).catch(() => false), { what: 'the node to take commands again' });
  const node = `127.0.0.1:${victim.port}`;
  expect(warn.mock.calls).toEqual([
    [{ role: 'producer', node, err: expect.any(Error) }, 'a node of redis cannot be reached'],
  ]);
  expect(info.mock.calls).toEqual([[{ role: 'producer', node }, 'a node of redis is back']]);
});

test('a cluster that says it has failed is connected to all the same, and no promise of it stays open', async () => {
  const others = cluster.nodes.filter((node) => node !== victim);
  const fullCoverage = (value: 'yes' | 'no'): Promise<unknown> =>
    Promise.all(
      others.map(async ({ port }) => {
        const redis = new Redis(port, '127.0.0.1');
        await redis.config('SET', 'cluster-require-full-coverage', value);
        if (value === 'yes') {
          await waitFor(async () => (await redis.cluster('INFO')).includes('cluster_state:fail'), {
            what: 'the cluster to fail',
            timeoutMs: 20_000,
          });
        }
        redis.disconnect();
      }),
    );
  await victim.kill();
  await fullCoverage('yes');
  const redis = await connect('worker');
  redis.disconnect();
  await new Promise<void>((resolve) => redis.once('end', () => resolve()));
  // As BullMQ does with a connection that waited too long.
  await redis.connect();
  await fullCoverage('no');
  expect(await redis.set(safe, 1)).toBe('OK');
});
