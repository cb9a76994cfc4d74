import { setTimeout as delay } from 'node:timers/promises';

import { createTestDatabase, startServers, waitFor } from '@lapse/devstack';
import { migrationsDir } from '@lapse/orders';
import { connectRedis, createLog, migrate, openDatabase, type Database } from '@lapse/runtime';

import { brokenInvariants } from '../invariants.ts';

/** Servers that all rounds of a bench share. */
export interface Stage {
  /** A fresh database with the whole schema, and an empty Redis. One at a time. */
  openScene(): Promise<Scene>;
  /** Processes of the servers. */
  readonly pids: { readonly postgresql: number; readonly redis: number };
  stop(): Promise<void>;
}

/** Where one round plays. */
export interface Scene {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly database: Database;
  close(): Promise<void>;
}

/** What a bench itself logs: not that its connections are lost where a round's database is dropped. */
export const log = createLog('bench', 'error');

/** Starts PostgreSQL and Redis. */
export async function openStage(onNotice: (line: string) => void): Promise<Stage> {
  const servers = await startServers({
    // A round ends with the commit of the last order, which no column tells.
    postgresSettings: { track_commit_timestamp: 'on' },
    onNotice,
  });
  const { databaseUrl: adminUrl, redisUrl } = servers;
  const redis = connectRedis({ url: redisUrl, role: 'worker', log });
  const template = await createTestDatabase({ adminUrl });
  await migrate({ url: template.url, dir: migrationsDir, log });
  return {
    pids: { postgresql: servers.postgres?.pid ?? 0, redis: servers.redis?.pid ?? 0 },
    async openScene() {
      await redis.flushall();
      // Else the file of a round before grows until Redis rewrites it, in the middle of a later one.
      await redis.bgrewriteaof();
      await waitFor(async () => (await redis.info('persistence')).includes('aof_rewrite_in_progress:0'), {
        what: 'redis to shorten its file',
      });
      const own = await createTestDatabase({ adminUrl, template: template.name });
      const database = openDatabase({ url: own.url, app: 'bench', log, max: 4 });
      return {
        databaseUrl: own.url,
        redisUrl,
        database,
        async close() {
          await database.end();
          await own.drop();
        },
      };
    },
    async stop() {
      redis.disconnect();
      await servers.stop();
    },
  };
}

/** Orders whose time is over at one instant, or in the course of a while from there. */
export interface Plan {
  readonly orderCount: number;
  /** Deadlines lie anywhere in this time from the first on, ms. 0: all at once. */
  readonly spreadMs: number;
  readonly partitionCount: number;
}

const skuCount = 200;

/**
 * Orders that are due together before those that count: nobody is measured with code that was never run, or with
 * connections that are not open yet. A process that began with the round was up to 100 ms later for its first orders.
 */
export const warmUp = { orderCount: 500, beforeMs: 1500 } as const;

/** SQL: a CTE that sets stock aside for the orders of the CTE `placed`. */
export const holdPlaced = `held as (
       update stock s set held = s.held + wanted.quantity
       from (
         select item.sku, sum(item.quantity) as quantity
         from placed cross join lateral jsonb_to_recordset(placed.items) as item (sku text, quantity bigint)
         group by item.sku
       ) as wanted
       where s.sku = wanted.sku
     )`;

/**
 * Places orders in SQL: one or two items each, among 200 SKUs whose stock is tracked; and those that warm up.
 *
 * @param leadMs how soon the first that counts is due
 * @returns that instant, by the database's clock
 */
export async function placeOrders({ database }: Scene, plan: Plan, leadMs: number): Promise<Date> {
  const { rows } = await database.query<{ at: Date }>(
    `select date_trunc('milliseconds', clock_timestamp()) + $1 * interval '1 ms' as at`,
    [leadMs],
  );
  const dueAt = rows[0]?.at;
  if (dueAt === undefined) throw new Error('the database told no time');
  await database.query(
    `insert into stock (sku, on_hand, updated_at)
     select 'sku-' || n, 1000000, clock_timestamp() from generate_series(0, $1 - 1) as n`,
    [skuCount],
  );
  await database.query(
    `with placed as (
       insert into orders (
         id, partition, channel, payment_method, currency, amount, items, metadata,
         created_at, deadline_at, expire_at, check_at
       )
       select
         uuidv7(), n % $4, 'default', 'card', 'EUR', 500 * jsonb_array_length(items), items, '{}',
         clock_timestamp(), due, due, due
       from generate_series(1, $1::int) as n
       cross join lateral (
         select
           $2::timestamptz
             + case when n <= $6::int then -$7::int else floor(random() * $3::int) end * interval '1 ms' as due,
           floor(random() * $5::int)::int as sku, 1 + floor(random() * ($5::int - 1))::int as distance, random() < 0.5 as is_single
       ) as drawn
       cross join lateral (
         select jsonb_agg(jsonb_build_object('sku', 'sku-' || k % $5::int, 'quantity', 1, 'unitAmount', 500)) as items
         from unnest(case when is_single then array[sku] else array[sku, sku + distance] end) as k
       ) as chosen
       returning id, items, created_at
     ), ${holdPlaced}
     insert into events (order_id, type, actor, at, data)
     select id, 'order.placed', 'bench', created_at, '{}' from placed`,
    [
      warmUp.orderCount + plan.orderCount,
      dueAt,
      plan.spreadMs,
      plan.partitionCount,
      skuCount,
      warmUp.orderCount,
      warmUp.beforeMs,
    ],
  );
  return dueAt;
}

/** Leaves nothing of the placing for later: dead rows, unwritten pages, statistics that know no order. */
export async function settleDown({ database }: Scene): Promise<void> {
  for (const statement of ['vacuum (analyze) orders, stock, events', 'checkpoint']) {
    await database.query(statement);
  }
}

/** Longest until all orders of a round are cancelled, ms, counted from the last deadline. */
const patienceMs = 180_000;

/**
 * Waits until no order is pending, without standing in the way of those that cancel: an event's number is drawn for each
 * cancellation, so the sequence tells when it is worth to look at the rows.
 *
 * @param expectAlive throws where waiting makes no sense any more
 * @throws Error when it takes longer than three minutes
 */
export async function untilCancelled(
  { database }: Scene,
  { orderCount, spreadMs }: Plan,
  expectAlive: () => void,
): Promise<void> {
  const giveUpAt = performance.now() + spreadMs + patienceMs;
  for (;;) {
    expectAlive();
    const { rows } = await database.query<{ isWorthALook: boolean }>(
      `select last_value >= 2 * $1::bigint as "isWorthALook" from events_seq_seq`,
      [warmUp.orderCount + orderCount],
    );
    if (rows[0]?.isWorthALook === true) {
      const pending = await database.query(`select from orders where status = 'pending_payment' limit 1`);
      if (pending.rowCount === 0) return;
    }
    if (performance.now() > giveUpAt) throw new Error('orders are still pending');
    await delay(20);
  }
}

/** How the orders of a round ended. */
export interface Ending {
  /** From the instant all were due (or the first) to the commit of the first and the last cancellation, ms. */
  readonly firstMs: number;
  readonly lastMs: number;
  /** `cancelled_at − expire_at` of each, ms, ascending. */
  readonly latenessMs: readonly number[];
  /** The same to the commit: when everybody else could see it. */
  readonly visibleMs: readonly number[];
}

/** Reads how the orders ended. */
export async function readEnding({ database }: Scene, dueAt: Date): Promise<Ending> {
  const { rows } = await database.query<{ late: number; visible: number; since: number }>(
    `select
       extract(epoch from cancelled_at - expire_at)::float8 * 1000 as late,
       extract(epoch from pg_xact_commit_timestamp(xmin) - expire_at)::float8 * 1000 as visible,
       extract(epoch from pg_xact_commit_timestamp(xmin) - $1)::float8 * 1000 as since
     from orders where status = 'cancelled' and expire_at >= $1`,
    [dueAt],
  );
  const sorted = (of: (row: (typeof rows)[number]) => number): number[] =>
    rows.map(of).toSorted((a, b) => a - b);
  const since = sorted((row) => row.since);
  return {
    firstMs: since[0] ?? NaN,
    lastMs: since.at(-1) ?? NaN,
    latenessMs: sorted((row) => row.late),
    visibleMs: sorted((row) => row.visible),
  };
}

/** @throws Error unless as many orders as these are cancelled in all, and every invariant holds */
export async function expectWhole({ database }: Scene, cancelledCount: number): Promise<void> {
  const { rows } = await database.query<{ count: number }>(
    `select count(*) from orders where status = 'cancelled'`,
  );
  const count = rows[0]?.count ?? 0;
  if (count !== cancelledCount) throw new Error(`${count} of ${cancelledCount} orders were cancelled`);
  const broken = await brokenInvariants(database);
  if (broken.length > 0) throw new Error(`invariants are broken:\n${JSON.stringify(broken, null, 2)}`);
}
