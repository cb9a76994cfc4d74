import { readdir } from 'node:fs/promises';
import { runner } from 'node-pg-migrate';
import pg from 'pg';
import type { Log } from './log.ts';
import {
  checkPreparedStatements,
  DatabaseUnavailable,
  PoolerLosesStatements,
  type Database,
} from './postgres.ts';
import { OperatorError } from './run-main.ts';
import type { Service } from './service.ts';

/** The advisory lock under which migrations run: "lapse" on a telephone's keys. */
const migrationLock = 52_773;
const migrationsTable = 'schema_migrations';

/**
 * Brings the schema up to the newest migration of a folder of plain SQL files. Processes that start together wait
 * for each other: one migrates, the rest find nothing to do. All pending files are one transaction.
 *
 * node-pg-migrate does the work (plain SQL files, history checked for order). Its own lock belongs to the session, which
 * a pooler in transaction mode hands to others; the one taken here belongs to the transaction, which it joins: its own
 * BEGIN does nothing but warn, and its COMMIT or ROLLBACK ends both.
 *
 * @returns the names of the migrations that were applied
 * @throws an error naming the server when it cannot be reached
 */
export async function migrate(options: { url: string; dir: string; log: Log }): Promise<string[]> {
  const { url, dir, log } = options;
  const client = await connectForMigration(url);
  try {
    await client.query('begin');
    await client.query('select pg_advisory_xact_lock($1)', [migrationLock]);
    const applied = await runner({
      dbClient: client,
      dir,
      direction: 'up',
      migrationsTable,
      noLock: true,
      checkOrder: true,
      singleTransaction: true,
      logger: {
        debug: (message) => log.trace(message),
        info: (message) => log.debug(message),
        warn: (message) => log.warn(message),
        error: (message) => log.error(message),
      },
    });
    // Where nothing was to be done the transaction is still open.
    await client.query('commit');
    const names = applied.map(({ name }) => name);
    if (names.length > 0) log.info({ migrations: names }, 'schema migrated');
    return names;
  } finally {
    await client.end();
  }
}

/** What a process finds when it compares the schema with the migrations it was built with. */
export type SchemaState =
  | { readonly state: 'current' }
  | { readonly state: 'behind'; readonly missing: readonly string[] };

/**
 * Compares the database with the folder of migrations. A database that is ahead is fine: migrations only add, so
 * that the old and the new version run side by side during a rollout.
 */
export async function schemaState(database: pg.Pool, dir: string): Promise<SchemaState> {
  const files = await readdir(dir);
  const expected = files.filter((file) => file.endsWith('.sql')).map((file) => file.slice(0, -'.sql'.length));
  const { rows } = await database.query<{ exists: boolean }>('select to_regclass($1) is not null as exists', [
    migrationsTable,
  ]);
  const applied = new Set<string>();
  if (rows[0]?.exists === true) {
    const found = await database.query<{ name: string }>(`select name from ${migrationsTable}`);
    for (const { name } of found.rows) applied.add(name);
  }
  const missing = expected.filter((name) => !applied.has(name)).toSorted();
  return missing.length === 0 ? { state: 'current' } : { state: 'behind', missing };
}

/**
 * The database as the first service of an app: on start it must answer and have the schema this version was built
 * with; on stop its connections are closed.
 *
 * @throws an error that says what to do when the server is missing or the schema is old
 */
export function databaseService(options: { database: Database; url: string; dir: string }): Service {
  const { database, url, dir } = options;
  const readSchema = async (): Promise<SchemaState> => {
    await checkPreparedStatements(database);
    return schemaState(database, dir);
  };
  return {
    name: 'postgres',
    async start() {
      const schema = await readSchema().catch((error: unknown) => {
        throw error instanceof PoolerLosesStatements ? error : unreachable(url, error);
      });
      if (schema.state === 'current') return;
      throw new OperatorError(`The schema lacks ${schema.missing.join(', ')}. Run \`lapse migrate\` first.`);
    },
    stop: () => database.end(),
  };
}

/** A health check: PostgreSQL answers, takes writes, and its schema is not behind. */
export async function databaseProblem(database: pg.Pool, dir: string): Promise<string | undefined> {
  try {
    const { rows } = await database.query<{ readOnly: boolean }>(
      `select current_setting('transaction_read_only') = 'on' as "readOnly"`,
    );
    if (rows[0]?.readOnly === true) return 'read-only';
    const schema = await schemaState(database, dir);
    return schema.state === 'current' ? undefined : `schema lacks ${schema.missing.join(', ')}`;
  } catch {
    return 'unreachable';
  }
}

async function connectForMigration(url: string): Promise<pg.Client> {
  const client = new pg.Client({
    connectionString: url,
    application_name: 'lapse-migrate',
    connectionTimeoutMillis: 5000,
  });
  try {
    await client.connect();
    return client;
  } catch (error) {
    throw unreachable(url, error);
  }
}

function unreachable(url: string, cause: unknown): OperatorError {
  const { hostname, port } = new URL(url);
  return new OperatorError(
    `PostgreSQL cannot be used at ${hostname}:${port === '' ? '5432' : port}: ${describe(cause)}. ` +
      'Is it running, and is DATABASE_URL right?',
    { cause },
  );
}

function describe(error: unknown): string {
  // What it says itself, the sentence around this says already.
  if (error instanceof DatabaseUnavailable) return describe(error.cause);
  if (error instanceof AggregateError) return error.errors.map(describe).join(', ');
  return error instanceof Error ? error.message : String(error);
}
