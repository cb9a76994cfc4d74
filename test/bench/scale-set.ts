import { createDeadlines, type Deadlines } from '@lapse/deadlines';
import { waitFor } from '@lapse/devstack';
import { createMetrics, openDatabase } from '@lapse/runtime';
import { Redis } from 'ioredis';

import { skuCount, wideStock } from './checkout-load.ts';
import { withShops, shopOf, type Shop } from './shops.ts';
import { holdPlaced, log, settleDown, type Scene } from './stage.ts';

/** A whole system, api included, in which so many orders wait for their deadline for days. */
export interface PendingSet extends Scene {
  /** `10 k`, `1 M` */
  readonly label: string;
  readonly size: number;
  readonly url: string;
  readonly redis: Redis;
  readonly deadlines: Deadlines;
  /** The last of them. Ids of orders that come later are greater. */
  readonly lastId: string;
  readonly footprint: Footprint;
}

/** Bytes for each order that waits. */
export interface Footprint {
  readonly redisBytes: number;
  /** The least Redis could need: a member of the id's length in a sorted set. */
  readonly memberBytes: number;
  /** Indexes included, by table. */
  readonly tableBytes: Readonly<Record<string, number>>;
  readonly indexBytes: number;
}

/** Orders to place. */
interface Placing {
  readonly orderCount: number;
  /** From now to the first deadline, ms. */
  readonly dueInMs: number;
  /** Deadlines lie anywhere in this time from there on, ms. */
  readonly spreadMs: number;
}

type Deadline = Parameters<Deadlines['armMany']>[0][number];

const dayMs = 24 * 60 * 60_000;
/** None is due while it is measured. */
const days = { dueInMs: dayMs, spreadMs: 6 * dayMs } as const;
const batchSize = 20_000;
const progressEvery = 200_000;

/**
 * Lets `work` measure systems of these sizes, which all run at the same time. Each has servers of its own: on shared ones
 * the small set would pay for the large one's pages, and what there is to be seen would be hidden.
 */
export async function withPendingSets<Result>(
  sizes: readonly number[],
  onProgress: (line: string) => void,
  work: (sets: readonly PendingSet[]) => Promise<Result>,
  opened: readonly PendingSet[] = [],
): Promise<Result> {
  const [size, ...others] = sizes;
  if (size === undefined) return work(opened);
  return withShops(['lapse'], onProgress, async (shops) => {
    const bare = openSet(size, shopOf(shops, 'lapse'));
    try {
      const set = { ...bare, ...(await fill(bare, onProgress)) };
      return await withPendingSets(others, onProgress, work, [...opened, set]);
    } finally {
      await bare.close();
    }
  });
}

type BareSet = Omit<PendingSet, 'lastId' | 'footprint'>;

function openSet(size: number, { url, databaseUrl, redisUrl }: Shop): BareSet {
  const redis = new Redis(redisUrl);
  const deadlines = createDeadlines({ redisUrl, log, metrics: createMetrics() });
  // A vacuum, or an invariant, takes a million rows longer than the 10 s a service waits.
  const patientUrl = new URL(databaseUrl);
  patientUrl.searchParams.set('query_timeout', String(10 * 60_000));
  const database = openDatabase({ url: patientUrl.href, app: 'bench', log, max: 4 });
  return {
    label: size >= 1_000_000 ? `${size / 1_000_000} M` : `${size / 1000} k`,
    size,
    url,
    databaseUrl,
    redisUrl,
    database,
    redis,
    deadlines,
    async close() {
      await deadlines.stop();
      redis.disconnect();
      await database.end();
    },
  };
}

async function fill(
  set: BareSet,
  onProgress: (line: string) => void,
): Promise<Pick<PendingSet, 'lastId' | 'footprint'>> {
  const { database, redis, size, label } = set;
  await database.query(
    `insert into stock (sku, on_hand, updated_at)
     select sku, on_hand, clock_timestamp() from unnest($1::text[], $2::bigint[]) as stock (sku, on_hand)`,
    [[...wideStock.keys()], [...wideStock.values()]],
  );
  const memberBytes = await measureMember(set);
  const bytesBefore = await usedBytes(redis);
  for (let placed = 0; placed < size;) {
    const orderCount = Math.min(batchSize, size - placed);
    await placeArmed(set, { orderCount, ...days });
    placed += orderCount;
    if (placed % progressEvery === 0 || placed === size) {
      onProgress(`${label}: ${placed.toLocaleString('en')} orders placed and armed`);
    }
  }
  await shortenFile(redis);
  const redisBytes = ((await usedBytes(redis)) - bytesBefore) / size;
  await tidy(set);
  const { rows } = await database.query<{ lastId: string }>(
    `select id as "lastId" from orders order by id desc limit 1`,
  );
  const [last] = rows;
  if (last === undefined) throw new Error('no order was placed');
  return { ...last, footprint: { redisBytes, memberBytes, ...(await measureTables(set)) } };
}

/** Places orders in SQL, with all that a checkout writes, and arms them. @throws Error where one was not armed */
export async function placeArmed(
  { database, deadlines }: Pick<PendingSet, 'database' | 'deadlines'>,
  { orderCount, dueInMs, spreadMs }: Placing,
): Promise<readonly Deadline[]> {
  const { rows } = await database.query<Deadline>(
    `with clock as materialized (
       select date_trunc('milliseconds', clock_timestamp()) as at
     ), drawn as materialized (
       select uuidv7() as id, n, at, at + ($2::bigint + floor(random() * $3::bigint)) * interval '1 ms' as due,
         floor(random() * $4::int)::int as sku, 1 + floor(random() * ($4::int - 1))::int as distance
       from generate_series(1, $1::int) as n cross join clock
     ), placed as (
       insert into orders (id, partition, reference, channel, payment_method, currency, amount, items, metadata,
         created_at, deadline_at, expire_at, check_at)
       select id, 0, 'cart-' || n, 'web', 'card', 'EUR', 1999 + 2 * 550,
         jsonb_build_array(
           jsonb_build_object('sku', 'sku-' || sku, 'quantity', 1, 'unitAmount', 1999),
           jsonb_build_object('sku', 'sku-' || (sku + distance) % $4::int, 'quantity', 2, 'unitAmount', 550)),
         jsonb_build_object('customer', 'customer-' || n, 'campaign', 'autumn'), at, due, due, due
       from drawn
       returning id, amount, items, created_at, expire_at
     ), logged as (
       insert into events (order_id, type, actor, at, data)
       select id, 'order.placed', 'bench', created_at,
         jsonb_build_object('currency', 'EUR', 'amount', amount, 'deadlineAt', expire_at)
       from placed
     ), kept as (
       insert into idempotency_keys (scope, key, body_hash, order_id, outcome, created_at)
       select 'api POST /v1/orders', gen_random_uuid()::text, sha256(uuid_send(id)), id, 'placed', created_at from placed
     ), ${holdPlaced}
     select id as "orderId", 0 as partition, created_at as "createdAt", expire_at as "expireAt" from placed`,
    [orderCount, dueInMs, spreadMs, skuCount],
  );
  const { failed } = await deadlines.armMany(rows);
  if (failed > 0) throw new Error(`${failed} deadlines were not armed`);
  return rows;
}

/** Jobs that wait for their instant. A worker leaves its canary among them. */
export async function countArmed({ deadlines }: Pick<PendingSet, 'deadlines'>): Promise<number> {
  return (await deadlines.depths([0])).get(0)?.delayed ?? 0;
}

/** Removes the settled orders of a round, so that the next one finds what this one found. */
export async function clearRound(set: PendingSet): Promise<void> {
  const { database, lastId } = set;
  await database.query('truncate payments, refunds');
  for (const [table, id] of [
    ['events', 'order_id'],
    ['idempotency_keys', 'order_id'],
    ['orders', 'id'],
  ]) {
    await database.query(`delete from ${table} where ${id} > $1`, [lastId]);
  }
  await tidy(set);
}

async function tidy(set: Scene): Promise<void> {
  await set.database.query('vacuum (analyze) idempotency_keys, payments');
  await settleDown(set);
}

async function measureMember({ redis, size }: BareSet): Promise<number> {
  const bytesBefore = await usedBytes(redis);
  for (let start = 0; start < size; start += 1000) {
    const members = Array.from({ length: Math.min(1000, size - start) }, (_, n) => [
      start + n,
      crypto.randomUUID(),
    ]);
    await redis.zadd('members', ...members.flat());
  }
  const bytes = (await usedBytes(redis)) - bytesBefore;
  await redis.del('members');
  return bytes / size;
}

/** What Redis uses for its data: without its connections' buffers, and those of the file. */
async function usedBytes(redis: Redis): Promise<number> {
  const info = await redis.info('memory');
  const [used, clients, file] = ['used_memory', 'mem_clients_normal', 'mem_aof_buffer'].map((name) =>
    Number(new RegExp(`^${name}:(\\d+)`, 'm').exec(info)?.[1] ?? 0),
  );
  return (used ?? NaN) - (clients ?? 0) - (file ?? 0);
}

/**
 * Has Redis shorten its file now, and not by itself later: the small set's file doubles in every round, and Redis would
 * shorten it then, in the middle; the large one's never doubles.
 */
async function shortenFile(redis: Redis): Promise<void> {
  const untilDone = () =>
    waitFor(async () => /aof_rewrite_in_progress:0[^]*_scheduled:0/.test(await redis.info('persistence')), {
      what: 'redis to shorten its file',
      timeoutMs: 120_000,
    });
  await redis.config('SET', 'auto-aof-rewrite-percentage', 0);
  await untilDone();
  await redis.bgrewriteaof();
  await untilDone();
}

async function measureTables({
  database,
  size,
}: BareSet): Promise<Omit<Footprint, 'redisBytes' | 'memberBytes'>> {
  const { rows } = await database.query<{ table: string; bytes: number; indexBytes: number }>(
    `select name as table, pg_total_relation_size(name::regclass) as bytes, pg_indexes_size(name::regclass) as "indexBytes"
     from unnest(array['orders', 'events', 'idempotency_keys']) as name`,
  );
  return {
    tableBytes: Object.fromEntries(rows.map(({ table, bytes }) => [table, bytes / size])),
    indexBytes: rows.reduce((sum, { indexBytes }) => sum + indexBytes, 0) / size,
  };
}
