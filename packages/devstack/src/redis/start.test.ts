import { chmod, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { unpackProgram } from '../apt.ts';
import { findCommand, machineEnvironment } from '../environment.ts';
import { RedisServerNotFound } from '../errors.ts';
import { scratchFolder, whereThereIs } from '../fixtures/scratch.ts';
import { freePort } from '../ports.ts';
import { askRedis } from './ask.ts';
import { aptRedis, findRedisServer } from './find-server.ts';
import { startRedis } from './start.ts';

async function setting(port: number, name: string): Promise<string | undefined> {
  return (await askRedis(port, `CONFIG GET ${name}`))?.split('\r\n')[4];
}

describe('Redis', () => {
  test('starts on the wished port with our settings, those of the call on top', async () => {
    const port = await freePort();
    const server = await startRedis({ dataDir: await scratchFolder(), port, settings: { hz: 200 } });
    expect(server.url).toBe(`redis://127.0.0.1:${port}`);
    const expected = {
      bind: '127.0.0.1',
      appendonly: 'yes',
      appendfsync: 'everysec',
      'maxmemory-policy': 'noeviction',
      hz: '200',
      'hash-max-listpack-value': '512',
      databases: '256',
      save: '',
      daemonize: 'no',
    };
    const found = Object.fromEntries(
      await Promise.all(Object.keys(expected).map(async (name) => [name, await setting(port, name)])),
    );
    expect(found).toEqual(expected);
    await server.stop();
    expect(await server.exited).toEqual({ code: 0, signal: null });
    expect(await askRedis(port, 'PING')).toBeUndefined();
  });

  test('starts again in the folder of one that was killed, with its data', async () => {
    const dataDir = await scratchFolder();
    const first = await startRedis({ dataDir, settings: { appendfsync: 'always' } });
    await askRedis(first.port, 'SET kept 42');
    first.kill('SIGKILL');
    expect(await first.exited).toEqual({ code: null, signal: 'SIGKILL' });
    const second = await startRedis({ dataDir });
    expect(await askRedis(second.port, 'GET kept')).toMatch(/^\$2\r\n42/);
    await second.stop();
  });

  test('names the pid of the server that has the folder', async () => {
    const dataDir = await scratchFolder();
    const server = await startRedis({ dataDir });
    await expect(startRedis({ dataDir })).rejects.toMatchObject({
      code: 'folder_in_use',
      message: expect.stringContaining(`kill ${server.pid}`),
    });
    await server.stop();
  });

  test('says so when the wished port is taken', async () => {
    const server = await startRedis({ dataDir: await scratchFolder() });
    await expect(startRedis({ dataDir: await scratchFolder(), port: server.port })).rejects.toMatchObject({
      code: 'port_taken',
    });
    await server.stop();
  });

  test('gives its own words when it cannot start', async () => {
    await expect(
      startRedis({ dataDir: await scratchFolder(), settings: { 'no-such-setting': 1 } }),
    ).rejects.toMatchObject({ code: 'start_failed', message: expect.stringContaining('no-such-setting') });
  });
});

/** A folder to put on PATH with `name` as an executable shell script in it. */
async function pathWith(name: string, script: string): Promise<string> {
  const folder = join(await scratchFolder(), 'bin');
  await mkdir(folder);
  await writeFile(join(folder, name), `#!/bin/sh\n${script}\n`);
  await chmod(join(folder, name), 0o755);
  return folder;
}

describe('a Redis server is found', () => {
  test.each(['valkey-server', 'redis-server'])('on PATH as %s, before anything else', async (name) => {
    const PATH = await pathWith(name, 'exit 0');
    expect(await findRedisServer({ env: { PATH } })).toEqual({ kind: 'program', path: join(PATH, name) });
  });

  test('nowhere: the error names every way to get one, and what was tried', async () => {
    const finding = findRedisServer({ env: { PATH: '', HOME: await scratchFolder() } });
    await expect(finding).rejects.toBeInstanceOf(RedisServerNotFound);
    for (const way of ['REDIS_URL', 'install redis or valkey', 'apt', 'Docker', 'not on PATH']) {
      await expect(finding).rejects.toThrow(way);
    }
    await expect(finding).rejects.toMatchObject({ code: 'redis_not_found', tried: { length: 3 } });
  });

  test('in a Docker engine that answers, which is told to publish on 127.0.0.1 only', async () => {
    const PATH = await pathWith('docker', '[ "$1" = info ] || { echo "$@" >&2; exit 9; }');
    const env = { PATH, HOME: await scratchFolder() };
    expect(await findRedisServer({ env })).toEqual({ kind: 'docker', path: join(PATH, 'docker') });
    const port = await freePort();
    const dataDir = await scratchFolder();
    const starting = startRedis({ dataDir, port, env, image: 'mirror.test/redis:8' });
    await expect(starting).rejects.toThrow(`--publish=127.0.0.1:${port}:6379`);
    await expect(starting).rejects.toThrow(`source=${dataDir},target=/data`);
    await expect(starting).rejects.toThrow('mirror.test/redis:8 redis-server --bind 0.0.0.0');
  });

  test('not in a Docker engine that does not answer', async () => {
    const PATH = await pathWith('docker', 'echo "cannot connect to the daemon" >&2; exit 1');
    await expect(findRedisServer({ env: { PATH, HOME: await scratchFolder() } })).rejects.toThrow(
      'cannot connect to the daemon',
    );
  });
});

const hasApt = (await findCommand('apt-get', machineEnvironment())) !== undefined;

whereThereIs('apt-get', hasApt, () => {
  describe('with apt', () => {
    test('two that fetch Redis at once get one copy, which starts and is found later', async () => {
      const cache = await scratchFolder();
      const env = { PATH: machineEnvironment()['PATH'], XDG_CACHE_HOME: cache };
      const notices: string[] = [];
      const [one, other] = await Promise.all(
        [1, 2].map(() => unpackProgram(aptRedis, env, (notice) => notices.push(notice))),
      );
      expect(other).toEqual(one);
      expect(notices[0]).toContain('apt fetches a private copy');
      expect(await readdir(join(cache, 'lapse'))).toHaveLength(1);
      // Commands that are not on this PATH: neither apt nor a Redis of the machine's own.
      const found = { PATH: '', XDG_CACHE_HOME: cache };
      expect(await findRedisServer({ env: found })).toEqual({ kind: 'program', ...one });
      const server = await startRedis({ dataDir: await scratchFolder(), env: found });
      await server.stop();
    });
  });
});
