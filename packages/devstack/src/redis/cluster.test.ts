import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { scratchFolder } from '../fixtures/scratch.ts';
import { waitFor } from '../wait-for.ts';
import { askRedis } from './ask.ts';
import { startRedisCluster } from './cluster.ts';
import { startRedisSentinel } from './sentinel.ts';

test('a cluster starts whole; a replica takes over from a master that was killed, which comes back as its replica', async () => {
  const cluster = await startRedisCluster({ dataDir: await scratchFolder() });
  expect(cluster.nodes).toHaveLength(6);
  expect(cluster.url).toBe(
    `redis+cluster://${cluster.nodes.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
  );
  const master = await cluster.masterOf('key');
  if (master === undefined) throw new Error('the key has no master');
  expect(cluster.nodes.slice(0, 3)).toContain(master);
  expect(await askRedis(master.port, 'CONFIG GET cluster-require-full-coverage')).toMatch(/\r\nno\r\n/);
  expect(await askRedis(master.port, 'CONFIG GET hz')).toMatch(/\r\n100\r\n/);

  await master.kill();
  const heir = await waitFor(() => cluster.masterOf('key'), {
    what: 'a replica to take over',
    timeoutMs: 30_000,
  });
  expect(cluster.nodes.slice(3)).toContain(heir);
  await master.restart();
  await cluster.untilWhole();
  expect(await cluster.masterOf('key')).toBe(heir);
  expect(await askRedis(master.port, 'ROLE')).toContain('slave');
  await cluster.stop();
  expect(await askRedis(heir.port, 'PING')).toBeUndefined();
});

test('without replicas a cluster of any size of masters starts, and its slots are in equal parts', async () => {
  const cluster = await startRedisCluster({
    dataDir: await scratchFolder(),
    masters: 4,
    replicasPerMaster: 0,
  });
  const [first] = cluster.nodes;
  const nodes = await askRedis(first?.port ?? 0, 'CLUSTER NODES');
  for (const slots of ['0-4095', '4096-8191', '8192-12287', '12288-16383'])
    expect(nodes).toContain(` ${slots}`);
  await cluster.stop();
});

test.each([
  ['a Redis Cluster', startRedisCluster],
  ['Redis Sentinel', startRedisSentinel],
])('%s says what it needs where there is a Docker engine only', async (what, start) => {
  const PATH = join(await scratchFolder(), 'bin');
  await mkdir(PATH);
  await writeFile(join(PATH, 'docker'), '#!/bin/sh\nexit 0\n');
  await chmod(join(PATH, 'docker'), 0o755);
  const home = await scratchFolder();
  await expect(start({ dataDir: home, env: { PATH, HOME: home } })).rejects.toMatchObject({
    code: 'redis_not_found',
    message: expect.stringMatching(`${what} needs redis-server or valkey-server on this machine`),
  });
});
