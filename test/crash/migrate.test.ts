import { createTestDatabase, type TestDatabase } from '@lapse/devstack';
import { createLog, openDatabase, type Database } from '@lapse/runtime';
import { describe, expect, inject, test } from 'vitest';

import { runScript } from '../e2e/fleet.ts';
import { startVictim } from './victim.ts';

async function withDatabase<Result>(
  url: string,
  read: (database: Database) => Promise<Result>,
): Promise<Result> {
  const database = openDatabase({ url, app: 'test', log: createLog('test', 'error'), max: 1 });
  try {
    return await read(database);
  } finally {
    await database.end();
  }
}

const readTables = (url: string): Promise<readonly string[]> =>
  withDatabase(url, async (database) => {
    const { rows } = await database.query<{ name: string }>(
      "select tablename as name from pg_tables where schemaname = 'public' order by 1",
    );
    return rows.map(({ name }) => name);
  });

/** Every column, index and migration of a database, to compare it with another. */
const readSchema = (url: string): Promise<unknown> =>
  withDatabase(url, async (database) => {
    const columns = await database.query(
      `select table_name, column_name, data_type, is_nullable from information_schema.columns
       where table_schema = 'public' order by 1, 2`,
    );
    const indexes = await database.query(
      "select indexname, indexdef from pg_indexes where schemaname = 'public' order by 1",
    );
    const applied = await database.query('select name from schema_migrations order by id');
    return { columns: columns.rows, indexes: indexes.rows, applied: applied.rows };
  });

/** Kills a migration of an empty database where it logs `text`. */
async function killInMigration(text: string, act: (database: TestDatabase) => Promise<void>): Promise<void> {
  const empty = await createTestDatabase({ adminUrl: inject('databaseUrl') });
  try {
    const victim = await startVictim('migrate', [text], {
      DATABASE_URL: empty.url,
      LAPSE_LOG_LEVEL: 'debug',
    });
    await victim.kill({ when: 'halted' });
    await act(empty);
  } finally {
    await empty.drop();
  }
}

async function migrate({ url }: TestDatabase): Promise<string> {
  const { code, output } = await runScript('apps/cli/src/main.ts', ['migrate'], { DATABASE_URL: url });
  expect({ code, output }).toMatchObject({ code: 0 });
  return output;
}

/** The schema as a migration that nobody killed makes it. */
async function expectWhole({ url }: TestDatabase): Promise<void> {
  const whole = await createTestDatabase({
    adminUrl: inject('databaseUrl'),
    template: inject('templateDatabase'),
  });
  expect(await readSchema(url)).toEqual(await readSchema(whole.url));
  await whole.drop();
}

describe.concurrent('migrate', () => {
  test(
    'first migration → killed → second: nothing of it stays; the next run does all of them',
    () =>
      killInMigration('### MIGRATION 0002', async (database) => {
        expect(await readTables(database.url)).toEqual([]);
        expect(await migrate(database)).toMatch(/Applied 0001_orders, 0002/);
        await expectWhole(database);
      }),
    30_000,
  );

  test(
    'COMMIT → killed before it says so: the next run finds nothing to do',
    () =>
      killInMigration('schema migrated', async (database) => {
        await expectWhole(database);
        expect(await migrate(database)).toContain('The schema is up to date.');
        await expectWhole(database);
      }),
    30_000,
  );
});
