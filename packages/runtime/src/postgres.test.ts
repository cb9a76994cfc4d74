import { createTestDatabase, startProxy, type Proxy, type TestDatabase } from '@lapse/devstack';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test, vi } from 'vitest';
import { createLog } from './log.ts';
import {
  DatabaseUnavailable,
  openDatabase,
  queryable,
  sqlState,
  transaction,
  type Database,
  type Queryable,
} from './postgres.ts';

declare module 'vitest' {
  // As the tests' global set-up provides it.
  interface ProvidedContext {
    readonly databaseUrl: string;
  }
}

const log = createLog('test', 'silent');
let own: TestDatabase;
let database: Database;
const opened: Database[] = [];

function open(url: string, max = 10): Database {
  const pool = openDatabase({ url, app: 'test', log, max });
  opened.push(pool);
  return pool;
}

beforeAll(async () => {
  own = await createTestDatabase({ adminUrl: inject('databaseUrl') });
  database = open(own.url);
  await database.query(
    'create table accounts (id int primary key, balance bigint not null check (balance >= 0))',
  );
});
beforeEach(async () => {
  await database.query('truncate accounts');
  await database.query('insert into accounts values (1, 100), (2, 100)');
});
afterAll(async () => {
  await Promise.all(opened.map((pool) => pool.end()));
  await own.drop();
});

const balances = async () =>
  (await database.query<{ balance: number }>('select balance from accounts order by id')).rows.map(
    ({ balance }) => balance,
  );
const take = { name: 'take', text: 'update accounts set balance = balance - $2 where id = $1' };
const backend = { name: 'backend', text: 'select pg_backend_pid() as pid' };

/** A statement that fails with an SQLSTATE. */
const fail = (errcode: string) => ({
  name: `fail ${errcode}`,
  text: `do $$ begin raise exception 'as wished' using errcode = '${errcode}'; end $$`,
});

async function pidOf(tx: Queryable): Promise<number> {
  const [row] = await tx.query<{ pid: number }>(backend);
  if (row === undefined) throw new Error('a backend without a pid');
  return row.pid;
}

describe('a transaction', () => {
  test('is committed when its work is done', async () => {
    const answer = await transaction(database, async (tx) => {
      await tx.query(take, [1, 30]);
      await tx.query(take, [2, 40]);
      return 'taken';
    });
    expect(answer).toBe('taken');
    expect(await balances()).toEqual([70, 60]);
  });

  test('is rolled back when its work fails, and its connection is used again', async () => {
    const single = open(own.url, 1);
    const before = await pidOf(queryable(single));
    const failing = transaction(single, async (tx) => {
      await tx.query(take, [1, 30]);
      throw new Error('changed our mind');
    });
    await expect(failing).rejects.toThrow('changed our mind');
    expect(await balances()).toEqual([100, 100]);
    expect(await pidOf(queryable(single))).toBe(before);
  });

  test('is rolled back when a statement is refused, and the error is that of the statement', async () => {
    const failing = transaction(database, async (tx) => {
      await Promise.all([tx.query(take, [1, 30]), tx.query(take, [2, 130]), tx.query(take, [1, 1])]);
    });
    await expect(failing).rejects.toMatchObject({ code: '23514' });
    expect(await failing.catch(sqlState)).toBe('23514');
    expect(await balances()).toEqual([100, 100]);
  });

  test('is tried again from the start after a deadlock', async () => {
    let tries = 0;
    const bothHoldOne = gate(2);
    const crossings: Promise<void>[] = [];
    /** Locks one row, and the other once both transactions hold theirs. */
    const cross = async (mine: number, other: number): Promise<void> => {
      let isRetry = false;
      await transaction(database, async (tx) => {
        tries += 1;
        // Else it might lock its row again before the one that waits for it wakes up, and they would cross once more.
        if (isRetry) await crossings[other];
        isRetry = true;
        await tx.query(take, [mine + 1, 10]);
        await bothHoldOne();
        await tx.query(take, [other + 1, 10]);
      });
    };
    crossings.push(cross(0, 1), cross(1, 0));
    await Promise.all(crossings);
    expect(tries).toBe(3);
    expect(await balances()).toEqual([80, 80]);
  });

  test('is given up when it meets more deadlocks than it has tries', async () => {
    const work = vi.fn(async (tx: Queryable) => {
      await tx.query({
        name: 'raise',
        text: `do $$ begin raise exception 'x' using errcode = '40P01'; end $$`,
      });
    });
    await expect(transaction(database, work)).rejects.toMatchObject({ code: '40P01' });
    expect(work).toHaveBeenCalledTimes(3);
  });

  test.each(['40001', '40P01'])('is tried again after %s, but not after a data error', async (state) => {
    const work = vi.fn(async (tx: Queryable) => {
      await tx.query(take, [1, 10]);
      if (work.mock.calls.length === 1) await tx.query(fail(state));
    });
    await transaction(database, work);
    expect(work).toHaveBeenCalledTimes(2);
    expect(await balances()).toEqual([90, 100]);

    const hopeless = vi.fn((tx: Queryable) => tx.query(fail('22003')));
    await expect(transaction(database, hopeless)).rejects.toMatchObject({ code: '22003' });
    expect(hopeless).toHaveBeenCalledTimes(1);
  });
});

/** A gate that opens when `count` have come; afterwards it stays open. */
function gate(count: number): () => Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let come = 0;
  return () => {
    come += 1;
    if (come >= count) resolve();
    return promise;
  };
}

describe('DatabaseUnavailable', () => {
  test('is what a server that refuses connections means', async () => {
    const nowhere = open('postgres://lapse@127.0.0.1:1/lapse');
    await expect(queryable(nowhere).query(backend)).rejects.toMatchObject({
      name: 'DatabaseUnavailable',
      code: 'unavailable',
      cause: { code: 'ECONNREFUSED' },
    });
    const work = vi.fn(() => Promise.resolve());
    await expect(transaction(nowhere, work)).rejects.toThrow(DatabaseUnavailable);
    expect(work).not.toHaveBeenCalled();
  });

  test('is what a connection means that is ended in the middle; nothing is stored, and the next one works', async () => {
    const single = open(own.url, 1);
    const failing = transaction(single, async (tx) => {
      await tx.query(take, [1, 30]);
      await database.query('select pg_terminate_backend($1)', [await pidOf(tx)]);
      await tx.query(take, [2, 30]);
    });
    await expect(failing).rejects.toThrow(DatabaseUnavailable);
    expect(await balances()).toEqual([100, 100]);
    await transaction(single, (tx) => tx.query(take, [1, 1]));
    expect(await balances()).toEqual([99, 100]);
  });

  test('is what an ended connection means before COMMIT, too', async () => {
    const failing = transaction(database, async (tx) => {
      await tx.query(take, [1, 30]);
      await database.query('select pg_terminate_backend($1)', [await pidOf(tx)]);
    });
    await expect(failing).rejects.toThrow(DatabaseUnavailable);
    expect(await balances()).toEqual([100, 100]);
  });

  test('is not what a refused statement means', async () => {
    await expect(
      queryable(database).query({ name: 'nonsense', text: 'select nonsense' }),
    ).rejects.toMatchObject({
      code: '42703',
    });
  });

  describe('behind a network', () => {
    let proxy: Proxy;
    beforeEach(async () => {
      const { hostname, port } = new URL(own.url);
      proxy = await startProxy({ target: { host: hostname, port: Number(port) } });
    });
    afterEach(() => proxy.stop());

    test('that is cut and mended, idle connections are replaced', async () => {
      const behind = open(proxy.urlFor(own.url), 4);
      await Promise.all(Array.from({ length: 4 }, () => queryable(behind).query(backend)));
      await proxy.refuse();
      await expect(queryable(behind).query(backend)).rejects.toThrow(DatabaseUnavailable);
      await proxy.restore();
      await expect(pidOf(queryable(behind))).resolves.toBeGreaterThan(0);
    });
  });
});

test('a bigint is a number, as the schema bounds it to', async () => {
  const rows = await queryable(database).query({
    name: 'bigint',
    text: `select 9007199254740991::bigint as large, count(*) as count, null::bigint as nothing from accounts`,
  });
  expect(rows).toEqual([{ large: Number.MAX_SAFE_INTEGER, count: 2, nothing: null }]);
});

test('a session that idles in its transaction is ended by the server, so that it keeps no locks', async () => {
  const show = { name: 'show', text: 'show idle_in_transaction_session_timeout' };
  const limit = [{ idle_in_transaction_session_timeout: '2s' }];
  const inside = (pool: Database) => transaction(pool, (tx) => tx.query(show));
  expect(await inside(database)).toEqual(limit);
  // Each transaction says so for itself: behind a pooler the session may be another one.
  const single = open(own.url, 1);
  await inside(single);
  expect(await queryable(single).query(show)).toEqual([{ idle_in_transaction_session_timeout: '0' }]);
});

test.each([
  ['', ['take']],
  ['?prepare=on', ['take']],
  ['?prepare=off', []],
])('with "%s" in the URL these statements are prepared: %j', async (query, prepared) => {
  const single = open(`${own.url}${query}`, 1);
  await transaction(single, (tx) => tx.query(take, [1, 10]));
  await queryable(single).query(take, [1, 10]);
  expect(await balances()).toEqual([80, 100]);
  const { rows } = await single.query<{ name: string }>('select name from pg_prepared_statements');
  expect(rows.map(({ name }) => name)).toEqual(prepared);
});
