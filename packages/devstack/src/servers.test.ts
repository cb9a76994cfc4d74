import { chown, readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { machineEnvironment, minimalEnvironment } from './environment.ts';
import {
  descendantsOf,
  query,
  scratchFolder,
  signal,
  spawnParent,
  stillRunning,
  whereThereIs,
} from './fixtures/scratch.ts';
import { askRedis } from './redis/ask.ts';
import { startServers } from './servers.ts';
import { waitFor } from './wait-for.ts';

const machine = minimalEnvironment(machineEnvironment());
const twoServers = new URL('fixtures/two-servers.ts', import.meta.url);
const isRoot = process.getuid?.() === 0;

function addressesIn(line: string): { databaseUrl: string; redisPort: number } {
  const { databaseUrl, redisUrl } = JSON.parse(line) as { databaseUrl: string; redisUrl: string };
  return { databaseUrl, redisPort: Number(new URL(redisUrl).port) };
}

async function answer({ databaseUrl, redisPort }: ReturnType<typeof addressesIn>): Promise<unknown> {
  return [await query(databaseUrl, 'select 1 as one'), await askRedis(redisPort, 'PING')];
}
const bothAnswer = [[{ one: 1 }], expect.stringMatching(/^\+PONG/)];

test('both servers start in one folder, keep their data over a restart, and leave nothing', async () => {
  const dataDir = await scratchFolder();
  const before = descendantsOf(process.pid);
  const first = await startServers({ dataDir });
  await query(first.databaseUrl, 'create table kept as select 42 as answer');
  await askRedis(Number(new URL(first.redisUrl).port), 'SET kept 42');
  const family = descendantsOf(process.pid).filter((pid) => !before.includes(pid));
  expect(family.length).toBeGreaterThan(2);
  await first.stop();

  const second = await startServers({ dataDir });
  expect(await query(second.databaseUrl, 'select answer from kept')).toEqual([{ answer: 42 }]);
  expect(await askRedis(Number(new URL(second.redisUrl).port), 'GET kept')).toMatch(/^\$2\r\n42/);
  await second.stop();
  expect(descendantsOf(process.pid).length).toBeLessThanOrEqual(before.length + 1); // the watchdog
});

test('two stacks run side by side', async () => {
  const stacks = await Promise.all([1, 2].map(async () => startServers({ dataDir: await scratchFolder() })));
  const urls = stacks.flatMap(({ databaseUrl, redisUrl }) => [databaseUrl, redisUrl]);
  expect(new Set(urls).size).toBe(4);
  for (const { databaseUrl } of stacks) {
    await query(databaseUrl, 'create table mine (id int)');
  }
  await Promise.all(stacks.map((stack) => stack.stop()));
});

test('without a folder the data is temporary: stopping removes it', async () => {
  const servers = await startServers({});
  const folder = dirname(servers.postgres?.dataDir ?? '');
  expect(await readdir(folder)).toEqual(['postgres', 'postgres.log', 'redis', 'redis.log']);
  await servers.stop();
  await expect(readdir(folder)).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a URL stands for a server: nothing is started in its place', async () => {
  const urls = { databaseUrl: 'postgres://elsewhere/db', redisUrl: 'redis://elsewhere' };
  const servers = await startServers({ dataDir: join(await scratchFolder(), 'unused'), ...urls });
  expect(servers).toMatchObject(urls);
  expect(servers.postgres).toBeUndefined();
  expect(servers.redis).toBeUndefined();
  await servers.stop();
});

test('when one server cannot start, the other is stopped', async () => {
  const before = descendantsOf(process.pid);
  const starting = startServers({
    dataDir: await scratchFolder(),
    redisSettings: { 'no-such-setting': 1 },
  });
  await expect(starting).rejects.toMatchObject({
    code: 'start_failed',
    message: expect.stringContaining('no-such-setting'),
  });
  expect(descendantsOf(process.pid).length).toBeLessThanOrEqual(before.length + 1); // the watchdog
});

describe('in a process of its own', () => {
  test('kill -9 of the parent leaves no process within 5 s, and the next start has the data', async () => {
    const dataDir = await scratchFolder();
    const parent = spawnParent(twoServers, [dataDir], { env: machine });
    const addresses = addressesIn(await parent.nextLine());
    await query(addresses.databaseUrl, 'create table kept as select 42 as answer');
    const family = descendantsOf(parent.pid);
    expect(family.length).toBeGreaterThan(5);
    signal(parent.pid, 'SIGKILL');
    // At once: the old servers are still stopping.
    const next = startServers({ dataDir });
    await waitFor(() => stillRunning(family).length === 0, {
      timeoutMs: 5_000,
      what: 'every process to be gone',
    });
    const servers = await next;
    expect(await query(servers.databaseUrl, 'select answer from kept')).toEqual([{ answer: 42 }]);
    await servers.stop();
  });

  test("a terminal's Ctrl-C does not reach the servers", async () => {
    const parent = spawnParent(twoServers, [await scratchFolder()], { env: machine });
    const addresses = addressesIn(await parent.nextLine());
    const family = descendantsOf(parent.pid);
    process.kill(-parent.pid, 'SIGINT');
    expect(await parent.nextLine()).toBe('interrupted');
    expect(await answer(addresses)).toEqual(bothAnswer);
    expect(stillRunning(family).length).toBe(family.length);
    signal(parent.pid, 'SIGTERM');
    await waitFor(() => stillRunning(family).length === 0, {
      timeoutMs: 5_000,
      what: 'every process to be gone',
    });
  });

  whereThereIs('root', isRoot, () => {
    test('an ordinary user gets both servers, with nothing but a home', async () => {
      const home = await scratchFolder();
      await chown(home, 65_534, 65_534);
      const parent = spawnParent(twoServers, [join(home, 'data')], {
        uid: 65_534,
        gid: 65_534,
        env: { ...machine, HOME: home },
      });
      expect(await answer(addressesIn(await parent.nextLine()))).toEqual(bothAnswer);
      const family = descendantsOf(parent.pid);
      signal(parent.pid, 'SIGKILL');
      await waitFor(() => stillRunning(family).length === 0, {
        timeoutMs: 5_000,
        what: 'every process to be gone',
      });
    });
  });
});
