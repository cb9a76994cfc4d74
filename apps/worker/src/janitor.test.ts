import { createTestDatabase, waitFor } from '@lapse/devstack';
import { createOrders } from '@lapse/orders';
import { createLog, createMetrics, openDatabase, type Database, type Service } from '@lapse/runtime';
import { beforeEach, expect, inject, test } from 'vitest';
import { janitor } from './janitor.ts';

let database: Database;
let start: (retentionDays: number) => Promise<Service>;
let removedCount: () => Promise<number>;

beforeEach(async () => {
  const own = await createTestDatabase({
    adminUrl: inject('databaseUrl'),
    template: inject('templateDatabase'),
  });
  const log = createLog('test', 'error');
  const metrics = createMetrics();
  database = openDatabase({ url: own.url, app: 'test', log });
  const orders = createOrders({ database });
  let started: Service | undefined;
  start = async (retentionDays) => {
    started = janitor({ orders, log, metrics, retentionDays });
    await started.start();
    return started;
  };
  removedCount = async () => {
    const text = await metrics.getSingleMetricAsString('lapse_removed_orders_total');
    return Number(text.split(' ').at(-1));
  };
  return async () => {
    await started?.stop();
    await database.end();
    await own.drop();
  };
});

/** Places orders that were cancelled so many days ago, or are pending since. */
async function place(count: number, daysAgo: number, status: 'pending_payment' | 'cancelled'): Promise<void> {
  await database.query(
    `with placed as (
       select n, clock_timestamp() - $2 * interval '1 day' as at from generate_series(1, $1::int) as n
     )
     insert into orders (
       id, partition, channel, payment_method, currency, amount, items, metadata, created_at, deadline_at, expire_at,
       check_at, status, cancel_reason, cancelled_at
     )
     select
       (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
       0, 'default', 'card', 'EUR', 500, '[{"sku": "a", "quantity": 1, "unitAmount": 500}]', '{}', at,
       at + interval '90 days', at + interval '90 days', at + interval '90 days', $3,
       case when $3 = 'cancelled' then 'customer' end, case when $3 = 'cancelled' then at end
     from placed`,
    [count, daysAgo, status],
  );
}

async function countIn(table: 'orders' | 'idempotency_keys'): Promise<number> {
  const { rows } = await database.query<{ count: number }>(`select count(*) from ${table}`);
  return rows[0]?.count ?? 0;
}

test('settled orders go when their days are over, batch by batch, and are counted; others stay', async () => {
  await place(1200, 41, 'cancelled');
  await place(10, 42, 'pending_payment');
  await place(10, 39, 'cancelled');
  const service = await start(40);
  await waitFor(async () => (await countIn('orders')) === 20, { what: 'the old orders to be removed' });
  await service.stop();
  expect(await removedCount()).toBe(1200);
});

test('with 0 days orders are kept for ever, while old idempotency keys go', async () => {
  await place(10, 10_000, 'cancelled');
  await database.query(
    `insert into idempotency_keys (scope, key, body_hash, order_id, outcome, created_at)
     select 'test', n::text, '', gen_random_uuid(), 'placed', clock_timestamp() - interval '25 hours'
     from generate_series(1, 1500) as n`,
  );
  const service = await start(0);
  await waitFor(async () => (await countIn('idempotency_keys')) === 0, {
    what: 'the old keys to be removed',
  });
  await service.stop();
  expect(await countIn('orders')).toBe(10);
});
