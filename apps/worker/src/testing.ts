import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDeadlines, type Deadlines } from '@lapse/deadlines';
import { createTestDatabase, startRedis, waitFor } from '@lapse/devstack';
import { createOrders, type Orders } from '@lapse/orders';
import { createLog, createMetrics, openDatabase } from '@lapse/runtime';
import { inject } from 'vitest';

declare module 'vitest' {
  // As the tests' global set-up provides them.
  interface ProvidedContext {
    readonly databaseUrl: string;
    readonly templateDatabase: string;
  }
}

/** A log that is read by nobody. */
export const silent = createLog('test', 'silent');

/** Rows and jobs of a test's own. */
export interface Stage {
  readonly orders: Orders;
  readonly deadlines: Deadlines;
  /** Places orders a minute ago, in partitions 0 and 1 by turns, and arms none. */
  placeUnarmed(count: number): Promise<void>;
  /** Rebuilds that were asked for. */
  rebuilds(): Promise<
    readonly { reason: string; partitions: readonly number[] | null; armedCount: number }[]
  >;
  close(): Promise<void>;
}

/** Opens a database of its own and starts a Redis of its own. */
export async function openStage(): Promise<Stage> {
  const own = await createTestDatabase({
    adminUrl: inject('databaseUrl'),
    template: inject('templateDatabase'),
  });
  const database = openDatabase({ url: own.url, app: 'test', log: silent });
  const dataDir = await mkdtemp(join(tmpdir(), 'lapse-worker-'));
  const redis = await startRedis({ dataDir });
  const deadlines = createDeadlines({ redisUrl: redis.url, log: silent, metrics: createMetrics() });
  await waitFor(() => deadlines.reachable(), { what: 'redis' });
  return {
    orders: createOrders({ database }),
    deadlines,
    async placeUnarmed(count) {
      await database.query(
        `with placed as (
           select n, clock_timestamp() - interval '1 minute' as at from generate_series(0, $1::int - 1) as n
         )
         insert into orders (
           id, partition, channel, payment_method, currency, amount, items, metadata, created_at, deadline_at,
           expire_at, check_at, status
         )
         select
           gen_random_uuid(), n % 2, 'default', 'card', 'EUR', 500, '[{"sku": "a", "quantity": 1, "unitAmount": 500}]',
           '{}', at, at + interval '1 hour', at + interval '1 hour', at + interval '1 hour', 'pending_payment'
         from placed`,
        [count],
      );
    },
    async rebuilds() {
      const { rows } = await database.query<Awaited<ReturnType<Stage['rebuilds']>>[number]>(
        'select reason, partitions, armed_count as "armedCount" from rebuilds order by started_at',
      );
      return rows;
    },
    async close() {
      await deadlines.stop();
      await redis.stop();
      await rm(dataDir, { recursive: true, force: true });
      await database.end();
      await own.drop();
    },
  };
}
