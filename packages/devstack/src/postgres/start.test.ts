import { chown, mkdir, readdir, stat, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { query, scratchFolder, whereThereIs } from '../fixtures/scratch.ts';
import { machineEnvironment } from '../environment.ts';
import { freePort } from '../ports.ts';
import { embeddedPostgres, reachableBinaries } from './binaries.ts';
import { mayReach, nobody } from './run-as.ts';
import { startPostgres } from './start.ts';

const isRoot = process.getuid?.() === 0;

describe('PostgreSQL', () => {
  test('starts on the wished port with our settings, those of the call on top', async () => {
    const port = await freePort();
    const server = await startPostgres({
      dataDir: await scratchFolder(),
      port,
      settings: { work_mem: '5MB', max_connections: 50 },
    });
    expect(server.url).toBe(`postgres://lapse@127.0.0.1:${port}/lapse`);
    const names = [
      'work_mem',
      'max_connections',
      'shared_buffers',
      'max_wal_size',
      'TimeZone',
      'unix_socket_directories',
      'listen_addresses',
      'server_encoding',
    ];
    const shown = await Promise.all(names.map((name) => query(server.url, `show ${name}`)));
    expect(shown.flatMap(([row]) => Object.values(row ?? {}))).toEqual([
      '5MB',
      '50',
      '256MB',
      '4GB',
      'UTC',
      '',
      '127.0.0.1',
      'UTF8',
    ]);
    expect(
      await query(server.url, `select datlocale, datcollate from pg_database where datname = 'lapse'`),
    ).toEqual([{ datlocale: 'C.UTF-8', datcollate: 'C' }]);
    await server.stop();
    expect(await server.exited).toEqual({ code: 0, signal: null });
  });

  test('starts again in the folder of one that was killed, with all that was committed', async () => {
    const dataDir = await scratchFolder();
    const first = await startPostgres({ dataDir });
    await query(first.url, 'create table kept as select 42 as answer');
    first.kill('SIGKILL');
    expect(await first.exited).toEqual({ code: null, signal: 'SIGKILL' });
    const second = await startPostgres({ dataDir });
    expect(await query(second.url, 'select answer from kept')).toEqual([{ answer: 42 }]);
    await second.stop();
  });

  test('names the pid of the server that has the folder', async () => {
    const dataDir = await scratchFolder();
    const server = await startPostgres({ dataDir });
    await expect(startPostgres({ dataDir })).rejects.toMatchObject({
      code: 'folder_in_use',
      message: expect.stringContaining(`kill -INT ${server.pid}`),
    });
    expect(await query(server.url, 'select 1 as one')).toEqual([{ one: 1 }]);
    await server.stop();
  });

  test('is not kept out by a lock whose pid another program has by now', async () => {
    const dataDir = await scratchFolder();
    await (await startPostgres({ dataDir })).stop();
    await writeFile(join(dataDir, 'postmaster.pid'), `${process.pid}\n${dataDir}\n`);
    const server = await startPostgres({ dataDir });
    expect(await query(server.url, 'select 1 as one')).toEqual([{ one: 1 }]);
    await server.stop();
  });

  test('says so when the wished port is taken', async () => {
    const server = await startPostgres({ dataDir: await scratchFolder() });
    await expect(startPostgres({ dataDir: await scratchFolder(), port: server.port })).rejects.toMatchObject({
      code: 'port_taken',
      message: expect.stringContaining(String(server.port)),
    });
    await server.stop();
  });

  test('does not touch a folder that holds other things', async () => {
    const dataDir = await scratchFolder();
    await writeFile(join(dataDir, 'thesis.txt'), '');
    await expect(startPostgres({ dataDir })).rejects.toMatchObject({ code: 'folder_unusable' });
    expect(await readdir(dataDir)).toEqual(['thesis.txt']);
  });

  test('clears away what a cut-off initdb left', async () => {
    const root = await scratchFolder();
    // No process has a pid this high.
    await mkdir(join(root, 'data.partial-99999999-abcd', 'base'), { recursive: true });
    const server = await startPostgres({ dataDir: join(root, 'data') });
    await server.stop();
    expect(await readdir(root)).toEqual(['data']);
  });

  test('gives its own words when it cannot start', async () => {
    const starting = startPostgres({ dataDir: await scratchFolder(), settings: { no_such_setting: 1 } });
    await expect(starting).rejects.toMatchObject({
      code: 'start_failed',
      message: expect.stringContaining('no_such_setting'),
    });
  });

  test('names DATABASE_URL on a platform without programs', async () => {
    await expect(embeddedPostgres('plan9-mips')).rejects.toMatchObject({
      code: 'unsupported_platform',
      message: expect.stringContaining('DATABASE_URL'),
    });
  });
});

whereThereIs('root', isRoot, () => {
  describe('under root', () => {
    test('the data moves to a stable temporary folder when nobody may not enter its parents', async () => {
      const dataDir = join(await scratchFolder(0o700), 'postgres');
      const TMPDIR = await scratchFolder();
      const options = { dataDir, env: { ...machineEnvironment(), TMPDIR } };
      const notices: string[] = [];
      const first = await startPostgres({ ...options, onNotice: (notice) => notices.push(notice) });
      expect(dirname(dirname(first.dataDir))).toBe(TMPDIR);
      expect(notices).toEqual([expect.stringContaining(first.dataDir)]);
      await first.stop();
      const second = await startPostgres(options);
      expect(second.dataDir).toBe(first.dataDir);
      await second.stop();
    });

    test("an ordinary user's cluster is run as that user", async () => {
      const root = await scratchFolder();
      await (await startPostgres({ dataDir: join(root, 'data') })).stop();
      const chownAll = async (path: string): Promise<void> => {
        await chown(path, 1_234, 1_234);
        if (!(await stat(path)).isDirectory()) return;
        for (const name of await readdir(path)) await chownAll(join(path, name));
      };
      await chownAll(join(root, 'data'));
      const server = await startPostgres({ dataDir: join(root, 'data') });
      expect((await stat(join(root, 'data', 'postmaster.pid'))).uid).toBe(1_234);
      await server.stop();
    });

    test('programs that nobody may not reach are copied once', async () => {
      const native = join(await scratchFolder(0o700), 'native');
      await mkdir(join(native, 'bin'), { recursive: true });
      await mkdir(join(native, 'lib'), { mode: 0o700 });
      await writeFile(join(native, 'bin', 'postgres'), '#!/bin/sh\n', { mode: 0o700 });
      await writeFile(join(native, 'bin', 'initdb'), '#!/bin/sh\n', { mode: 0o700 });
      await writeFile(join(native, 'lib', 'libpq.so.5.18'), '', { mode: 0o600 });
      await symlink('libpq.so.5.18', join(native, 'lib', 'libpq.so'));
      const env = { TMPDIR: await scratchFolder() };
      const notices: string[] = [];
      const shipped = { postgres: join(native, 'bin', 'postgres'), initdb: join(native, 'bin', 'initdb') };
      const [copy, again] = await Promise.all(
        [1, 2].map(() => reachableBinaries(shipped, nobody, env, (notice) => notices.push(notice))),
      );
      expect(again).toEqual(copy);
      expect(notices.length).toBe(1);
      expect(await readdir(env.TMPDIR)).toHaveLength(1);
      expect(await mayReach(copy?.initdb ?? '', nobody)).toBe(true);
      const library = join(dirname(dirname(copy?.postgres ?? '')), 'lib', 'libpq.so');
      expect((await stat(library)).mode & 0o777).toBe(0o644);
    });
  });
});
