import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createTestDatabase, type TestDatabase } from '@lapse/devstack';
import { afterEach, beforeEach, describe, expect, inject, test } from 'vitest';
import { createLog } from './log.ts';
import { databaseService, migrate, schemaState } from './migrations.ts';
import { openDatabase, type Database } from './postgres.ts';

const log = createLog('test', 'silent');
let own: TestDatabase;
let database: Database;
let dir: string;

beforeEach(async () => {
  own = await createTestDatabase({ adminUrl: inject('databaseUrl') });
  database = openDatabase({ url: own.url, app: 'test', log });
  dir = await mkdtemp(join(tmpdir(), 'lapse-migrations-'));
  await add('0001_first', 'create table first (id int);');
});
afterEach(async () => {
  await database.end();
  await own.drop();
  await rm(dir, { recursive: true });
});

const add = (name: string, sql: string) => writeFile(join(dir, `${name}.sql`), `-- Up Migration\n${sql}\n`);
const run = () => migrate({ url: own.url, dir, log });

test('pending migrations are applied once, in order', async () => {
  expect(await schemaState(database, dir)).toEqual({ state: 'behind', missing: ['0001_first'] });
  expect(await run()).toEqual(['0001_first']);
  await add('0003_third', 'alter table second add column name text;');
  await add('0002_second', 'create table second (id int);');
  expect(await schemaState(database, dir)).toEqual({
    state: 'behind',
    missing: ['0002_second', '0003_third'],
  });
  expect(await run()).toEqual(['0002_second', '0003_third']);
  expect(await run()).toEqual([]);
  expect(await schemaState(database, dir)).toEqual({ state: 'current' });
});

test('processes that start together wait for each other, and one of them migrates', async () => {
  await add('0002_slow', 'select pg_sleep(0.2); create table second (id int);');
  const applied = await Promise.all(Array.from({ length: 8 }, run));
  expect(applied.toSorted((a, b) => b.length - a.length)).toEqual([
    ['0001_first', '0002_slow'],
    ...Array.from({ length: 7 }, () => []),
  ]);
});

test('a migration that fails takes those before it back with it, and the next run can go on', async () => {
  await add('0002_broken', 'create table second (id nonsense);');
  await expect(run()).rejects.toThrow('nonsense');
  expect(await schemaState(database, dir)).toEqual({
    state: 'behind',
    missing: ['0001_first', '0002_broken'],
  });
  await add('0002_broken', 'create table second (id int);');
  expect(await run()).toEqual(['0001_first', '0002_broken']);
});

test('a migration that comes before one that was applied is refused', async () => {
  await add('0003_third', 'create table third (id int);');
  await run();
  await add('0002_late', 'create table second (id int);');
  await expect(run()).rejects.toThrow('0002_late is preceding already run migration 0003_third');
});

test('a database that is ahead of the folder is current', async () => {
  await add('0002_second', 'create table second (id int);');
  await run();
  await rm(join(dir, '0002_second.sql'));
  expect(await schemaState(database, dir)).toEqual({ state: 'current' });
});

describe('a server that cannot be reached is named, with the reason and the setting to look at,', () => {
  const url = 'postgres://lapse@127.0.0.1:1/lapse';
  const message =
    /^PostgreSQL cannot be used at 127\.0\.0\.1:1: .*ECONNREFUSED.*\. Is it running, and is DATABASE_URL right\?$/;

  test('by the migration', async () => {
    await expect(migrate({ url, dir, log })).rejects.toThrow(message);
  });

  test('by the start of an app', async () => {
    const service = databaseService({ database: openDatabase({ url, app: 'test', log }), url, dir });
    await expect(service.start()).rejects.toThrow(message);
    await service.stop();
  });
});
