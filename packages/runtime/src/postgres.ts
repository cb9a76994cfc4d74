import pg from 'pg';
import type { Log } from './log.ts';
import { OperatorError } from './run-main.ts';

/** A pool of connections to the database that holds the truth. */
export type Database = Pool;

/** A statement, prepared once for each connection under its name, where the URL does not forbid it. */
export interface Statement {
  readonly name: string;
  readonly text: string;
}

/** Runs statements: inside one transaction, or each on its own. */
export interface Queryable {
  /** @throws DatabaseUnavailable when the server cannot be reached; pg.DatabaseError when it refuses the statement */
  query<Row>(statement: Statement, values?: readonly unknown[]): Promise<Row[]>;
}

/** One transaction. */
export interface Transaction extends Queryable {
  /**
   * Sends COMMIT right behind the statements that were sent, without a wait for their answers: what they lock is free a
   * round trip sooner. Where one of them fails, the transaction is rolled back all the same. Nothing may be sent after it.
   */
  commit(): void;
}

/** PostgreSQL cannot be reached, or went away in the middle. What was under way may or may not be committed. */
export class DatabaseUnavailable extends Error {
  readonly code = 'unavailable';

  constructor(cause: unknown, message = 'PostgreSQL cannot be reached') {
    super(message, { cause });
    this.name = 'DatabaseUnavailable';
  }
}

/** Somebody held what a transaction needs for longer than it waits. It was rolled back, its connection is well. */
export class LockTimeout extends DatabaseUnavailable {
  constructor(cause: unknown) {
    super(cause, 'PostgreSQL holds this for somebody else');
    this.name = 'LockTimeout';
  }
}

/** The SQLSTATE of an error that the database raised, else undefined. */
export function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}

/** SQLSTATE classes that say "the server, not the statement": connection, resources, shutdown, system. */
const unavailableClasses = new Set(['08', '53', '57', '58']);

function translate(error: unknown): unknown {
  const state = sqlState(error);
  if (state !== undefined && lostStatements.has(state)) return new PoolerLosesStatements(error);
  if (state === lockNotAvailable) return new LockTimeout(error);
  return state === undefined || state === readOnly || unavailableClasses.has(state.slice(0, 2))
    ? new DatabaseUnavailable(error)
    : error;
}

const lockNotAvailable = '55P03';

/** Said by a server that became a standby: the next connection may find the new primary. */
const readOnly = '25006';

/** Said to what follows a failed statement in its transaction: never why it failed. */
const transactionFailed = '25P02';

/** A prepared statement does not exist, or exists already. */
const lostStatements = new Set(['26000', '42P05']);

/** Between us and PostgreSQL stands a pooler that hands each transaction to another session, without our statements. */
export class PoolerLosesStatements extends OperatorError {
  constructor(cause: unknown) {
    super(
      'A pooler in transaction mode stands before PostgreSQL and does not keep prepared statements. ' +
        'Add ?prepare=off to DATABASE_URL; or, with PgBouncer 1.21 or newer, set its max_prepared_statements.',
      { cause },
    );
    this.name = 'PoolerLosesStatements';
  }
}

// Every bigint of the schema is bounded to 2^53 - 1 by a CHECK, or counts rows.
const types = new pg.TypeOverrides();
types.setTypeParser(pg.types.builtins.INT8, Number);

/** How long the client waits for a statement, ms, and then gives its connection up. */
const queryTimeoutMs = 10_000;

/**
 * Nothing of a transaction that we gave up may stay behind in the server:
 *
 * - A process that was stopped, or cut off, in the middle of it must not keep its row locks: until then checkouts and
 *   expiry wait for its orders and SKUs. With 10 s they were 7.5 s late, with 2 s 2.2 s.
 * - A statement must not wait on for a lock when its client has left: such backends queue up, and keep what they have,
 *   the freeze lock for one. So the server gives up before the client does.
 *
 * Set by each transaction for itself, in the message that begins it: as parameters of the connection, PgBouncer would
 * refuse them. The first costs a transaction 2 µs; the others were not measured by themselves.
 */
const begin = (lockTimeoutMs: number): string =>
  'begin; set local idle_in_transaction_session_timeout = 2000; ' +
  `set local statement_timeout = ${queryTimeoutMs - 1000}; set local lock_timeout = ${lockTimeoutMs}`;

/** A pool that knows whether it may leave prepared statements in its sessions. */
class Pool extends pg.Pool {
  readonly prepares: boolean;

  constructor(config: pg.PoolConfig & { readonly prepares: boolean }) {
    super(config);
    this.prepares = config.prepares;
  }
}

/** What is sent for a statement: without its name, it is planned each time. */
function queryOf(database: Database, statement: Statement, values: readonly unknown[]): pg.QueryConfig {
  const { name, text } = statement;
  return { text, values: [...values], ...(database.prepares ? { name } : {}) };
}

/**
 * Opens a pool. Nothing is connected before the first query.
 *
 * @param options.url with `?prepare=off`, no statement is prepared: for poolers that lose them, such as PgBouncer
 *   before 1.21 in transaction mode
 * @param options.max most connections. Default 10
 */
export function openDatabase(options: { url: string; app: string; log: Log; max?: number }): Database {
  const { url, app, log, max = 10 } = options;
  const database = new Pool({
    connectionString: url,
    application_name: `lapse-${app}`,
    max,
    types,
    // Statements that do not wait for each other's answers share a round trip; BEGIN always does.
    pipeline: true,
    keepAlive: true,
    connectionTimeoutMillis: 3000,
    query_timeout: queryTimeoutMs,
    prepares: new URL(url).searchParams.get('prepare') !== 'off',
  });
  database.on('error', (error) => log.warn({ err: error }, 'idle database connection was lost'));
  return database;
}

const probe: Statement = { name: 'probe', text: 'select 1' };

/**
 * Finds out whether prepared statements stay where they are prepared. A pooler that loses them has idle sessions at
 * hand when a process starts, and gives both of ours the same one; what it hides at first, a later statement meets.
 *
 * @throws PoolerLosesStatements with what to do about it
 */
export async function checkPreparedStatements(database: Database): Promise<void> {
  if (!database.prepares) return;
  const clients: pg.PoolClient[] = [];
  try {
    for (const _ of ['first', 'second']) clients.push(await database.connect());
    for (const client of [...clients, ...clients]) await client.query(queryOf(database, probe, []));
  } catch (error) {
    throw translate(error);
  } finally {
    for (const client of clients) client.release();
  }
}

/** Runs statements one by one, each its own transaction. */
export function queryable(database: Database): Queryable {
  return {
    async query<Row>(statement: Statement, values: readonly unknown[] = []) {
      try {
        const { rows } = await database.query<Row & pg.QueryResultRow>(queryOf(database, statement, values));
        return rows;
      } catch (error) {
        throw translate(error);
      }
    },
  };
}

const deadlockDetected = '40P01';
const serializationFailure = '40001';

/**
 * Runs `work` in a transaction, READ COMMITTED. A deadlock or serialization failure is tried again, from the start.
 *
 * @param options.attempts tries in all. Default 3
 * @param options.lockTimeoutMs how long it waits for a lock, ms, below 9,000. Default 2,000
 * @throws DatabaseUnavailable when the connection is lost: the transaction may or may not be committed
 * @throws LockTimeout when somebody held a row, or an advisory lock, for too long: nothing was committed
 */
export async function transaction<Result>(
  database: Database,
  work: (tx: Transaction) => Promise<Result>,
  options: { attempts?: number; lockTimeoutMs?: number } = {},
): Promise<Result> {
  const { attempts = 3, lockTimeoutMs = 2000 } = options;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await transactionOnce(database, work, lockTimeoutMs);
    } catch (error) {
      const state = sqlState(error);
      if ((state !== deadlockDetected && state !== serializationFailure) || attempt === attempts) throw error;
    }
  }
}

async function transactionOnce<Result>(
  database: Database,
  work: (tx: Transaction) => Promise<Result>,
  lockTimeoutMs: number,
): Promise<Result> {
  const client = await database.connect().catch((error: unknown) => {
    throw translate(error);
  });
  let lost = false;
  let cause: Error | undefined;
  const run = async <Row>(statement: string | Statement, values: readonly unknown[]): Promise<Row[]> => {
    try {
      const config =
        typeof statement === 'string' ? { text: statement } : queryOf(database, statement, values);
      return (await client.query<Row & pg.QueryResultRow>(config)).rows;
    } catch (error) {
      // Of statements sent together the later ones fail only because an earlier one did.
      if (sqlState(error) === transactionFailed && cause !== undefined) throw cause;
      const translated = translate(error);
      if (translated instanceof Error) cause ??= translated;
      lost ||= translated instanceof DatabaseUnavailable && !(translated instanceof LockTimeout);
      throw translated;
    }
  };
  // An idle-in-transaction time-out reaches the client as an event before the next query fails.
  const onError = (): void => {
    lost = true;
  };
  client.on('error', onError);
  let committed: Promise<unknown> | undefined;
  try {
    const begun = run(begin(lockTimeoutMs), []);
    begun.catch(() => undefined);
    const result = await work({
      query: (statement, values = []) => run(statement, values),
      commit() {
        committed = run('commit', []);
        committed.catch(() => undefined);
      },
    });
    await begun;
    await (committed ?? run('commit', []));
    return result;
  } catch (error) {
    // A COMMIT that was sent has ended it already: it rolls back where a statement failed.
    if (!lost) await (committed ?? run('rollback', [])).catch(() => undefined);
    throw error;
  } finally {
    client.off('error', onError);
    client.release(lost);
  }
}
