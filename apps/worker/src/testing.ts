import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDeadlines, type Deadlines } from '@lapse/deadlines';
import { createTestDatabase, startRedis, waitFor } from '@lapse/devstack';
import { createOrders, type Orders } from '@lapse/orders';
import type { PaymentProvider } from '@lapse/payments';
import { createLog, createMetrics, openDatabase, type Database } from '@lapse/runtime';
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
  readonly database: Database;
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
    database,
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

/** Places an order of 5.00 EUR of SKU `a`, which is not counted, with a page open at a provider. */
export async function beginToPay(
  { orders }: Pick<Stage, 'orders'>,
  provider: string,
): Promise<{ orderId: string; attemptId: string }> {
  await orders.setStock('a', null);
  const placed = await orders.checkout({
    reference: null,
    channel: 'default',
    paymentMethod: 'card',
    currency: 'EUR',
    items: [{ sku: 'a', quantity: 1, unitAmount: 500 }],
    paymentWindowMs: 3_600_000,
    metadata: {},
    actor: 'test',
  });
  if (placed.outcome !== 'placed') throw new Error(`the order was not placed: ${placed.outcome}`);
  const { id: orderId } = placed.order;
  const wish = { orderId, provider, handOffAs: 'url', returnUrl: null, actor: 'test' } as const;
  const begun = await orders.beginAttempt(wish);
  if (begun.outcome !== 'opening') throw new Error(`the attempt did not begin: ${begun.outcome}`);
  const { id: attemptId } = begun.attempt;
  await orders.recordOpened({ attemptId, providerAttemptId: `page of ${attemptId}`, handOff: {} });
  return { orderId, attemptId };
}

/** A provider of which a test says what it needs; it answers nothing else. */
export function aProvider(name: string, calls: Partial<PaymentProvider>): PaymentProvider {
  const reason = `${name} is away`;
  return {
    name,
    idempotencyWindowMs: 86_400_000,
    open: () => Promise.resolve({ outcome: 'unknown', reason }),
    close: () => Promise.resolve({ verdict: 'unknown', reason }),
    look: () => Promise.resolve({ verdict: 'unknown', reason }),
    refund: () => Promise.resolve({ state: 'unknown', reason }),
    findRefund: () => Promise.resolve({ state: 'unknown', reason }),
    readWebhook: () => ({ outcome: 'forged', reason: 'it is' }),
    ...calls,
  };
}
