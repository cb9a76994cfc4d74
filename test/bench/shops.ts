import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { createTestDatabase, spawnApp, startServers, waitFor, type RunningApp } from '@lapse/devstack';
import { migrationsDir } from '@lapse/orders';
import { createLog, migrate, openDatabase, type Database } from '@lapse/runtime';
import { Redis } from 'ioredis';

import { brokenInvariants } from '../invariants.ts';
import { root } from '../root.ts';

/** The API key of benches. */
export const apiKey = 'bench-key-0123456789abcdef';

/**
 * What runs behind the door. `lapse`: the api. `plain`: one transaction and one job for each order. `door`: nothing, so
 * that its figure is the most any of them can reach.
 */
export type ShopKind = 'lapse' | 'plain' | 'door';

/** An api process with a database and a Redis database of its own. */
export interface Shop {
  readonly kind: ShopKind;
  readonly name: string;
  readonly url: string;
  readonly database: Database;
  readonly databaseUrl: string;
  readonly redisUrl: string;
  /** Removes every order and job, and puts stock on sale: tracked where a number is given. */
  empty(stock: ReadonlyMap<string, number | null>): Promise<void>;
  /** @throws Error where an invariant does not hold */
  expectInvariants(): Promise<void>;
}

/** What people call them. */
export const shopNames = {
  lapse: 'Lapse',
  plain: 'plain service',
  door: 'door alone',
} as const satisfies Record<ShopKind, string>;

/**
 * Starts shops on the same servers, lets `work` measure them, and stops everything. They run all the time, so that each is
 * warm when its turn comes; those whose turn it is not are idle.
 */
export async function withShops<Result>(
  kinds: readonly ShopKind[],
  onNotice: (line: string) => void,
  work: (shops: ReadonlyMap<ShopKind, Shop>) => Promise<Result>,
): Promise<Result> {
  const servers = await startServers({ onNotice });
  const stops: (() => Promise<unknown>)[] = [];
  try {
    const template = await createTestDatabase({ adminUrl: servers.databaseUrl });
    await migrate({ url: template.url, dir: migrationsDir, log: createLog('bench', 'warn') });
    const shops = new Map<ShopKind, Shop>();
    for (const [n, kind] of kinds.entries()) {
      const own = await createTestDatabase({ adminUrl: servers.databaseUrl, template: template.name });
      const redisUrl = new URL(servers.redisUrl);
      redisUrl.pathname = `/${n + 1}`;
      const shop = await openShop(kind, own.url, redisUrl.href);
      stops.push(() => shop.stop());
      shops.set(kind, shop);
    }
    return await work(shops);
  } finally {
    for (const stop of stops) await stop();
    await servers.stop();
  }
}

/** The shop of that kind. @throws Error where it was not started */
export function shopOf(shops: ReadonlyMap<ShopKind, Shop>, kind: ShopKind): Shop {
  const shop = shops.get(kind);
  if (shop === undefined) throw new Error(`the shop ${kind} was not started`);
  return shop;
}

async function openShop(
  kind: ShopKind,
  databaseUrl: string,
  redisUrl: string,
): Promise<Shop & { stop(): Promise<void> }> {
  const api = await spawnShop(kind, databaseUrl, redisUrl);
  // Not warnings: the server stops while the pool's last connections are still closing.
  const log = createLog('bench', 'error');
  const database = openDatabase({ url: databaseUrl, app: 'bench', log, max: 4 });
  const redis = new Redis(redisUrl);
  return {
    kind,
    name: shopNames[kind],
    url: api.url,
    database,
    databaseUrl,
    redisUrl,
    async empty(stock) {
      await untilIdle(database);
      await redis.flushdb();
      await database.query(
        'truncate orders, payment_attempts, payments, refunds, events, idempotency_keys, stock',
      );
      await database.query(
        `insert into stock (sku, on_hand, updated_at)
         select sku, on_hand, clock_timestamp() from unnest($1::text[], $2::bigint[]) as stock (sku, on_hand)`,
        [[...stock.keys()], [...stock.values()]],
      );
      // Else one contender pays for writing the other's pages.
      await database.query('checkpoint');
    },
    async expectInvariants() {
      const broken = await brokenInvariants(database);
      if (broken.length > 0)
        throw new Error(`${shopNames[kind]} broke invariants: ${JSON.stringify(broken)}`);
    },
    async stop() {
      await api.stop();
      redis.disconnect();
      await database.end();
    },
  };
}

/** The settings of an api process. */
export function apiSettings(databaseUrl: string, redisUrl: string): Record<string, string> {
  return {
    DATABASE_URL: databaseUrl,
    REDIS_URL: redisUrl,
    LAPSE_HOST: '127.0.0.1',
    LAPSE_API_PORT: '0',
    LAPSE_API_KEY: apiKey,
  };
}

function spawnShop(kind: ShopKind, databaseUrl: string, redisUrl: string): Promise<RunningApp> {
  const ports = { plain: 'plain-ports.ts', door: 'plain-door.ts' };
  const service = pathToFileURL(join(root, 'test/bench/references/plain-service.ts')).href;
  return spawnApp({
    app: 'api',
    root,
    name: shopNames[kind],
    env: apiSettings(databaseUrl, redisUrl),
    nodeArguments: kind === 'lapse' ? [] : ['--import', `${service}?ports=${ports[kind]}`],
  });
}

/** Waits until nothing is under way in a database. */
async function untilIdle(database: Database): Promise<void> {
  await waitFor(
    async () => {
      const { rows } = await database.query(
        `select 1 from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'`,
      );
      return rows.length === 0;
    },
    { what: 'the database to be idle', timeoutMs: 30_000 },
  );
}
