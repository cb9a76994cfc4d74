import { createTestDatabase, waitFor } from '@lapse/devstack';
import { createLog, LockTimeout, openDatabase } from '@lapse/runtime';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import type { Order } from './order.ts';
import {
  aCheckout,
  aPayment,
  expectConsistent,
  makeDue,
  onePolicy,
  openTestOrders,
  type TestOrders,
  type TestProcess,
} from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  // Late money takes stock, too, in the same batch as money for pending orders.
  shop = await openTestOrders({ policies: onePolicy({ lateMoney: 'reinstate' }) });
  for (const sku of skus) await shop.orders.setStock(sku, 1_000_000);
});
afterAll(() => shop.close());

const skus = ['a', 'b', 'c', 'd', 'e'];
const runMs = 30_000;

function shuffled<Item>(items: readonly Item[]): Item[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .toSorted((a, b) => a.at - b.at)
    .map(({ item }) => item);
}

test('batches that cross each other never deadlock', { timeout: runMs + 60_000 }, async () => {
  const processes = [shop.another(), shop.another(), shop.another()];
  const counts = {
    placed: 0,
    opened: 0,
    paid: 0,
    reinstated: 0,
    expired: 0,
    swept: 0,
    cancelled: 0,
    adjusted: 0,
  };
  /** The newest orders: few enough that all processes are after the same ones. */
  let recent: Order[] = [];

  const loops = {
    async checkout({ orders }: TestProcess) {
      const answers = await Promise.all(
        Array.from({ length: 30 }, () =>
          orders.checkout(
            aCheckout({
              items: shuffled(skus)
                .slice(0, 3)
                .map((sku) => ({ sku, quantity: 1, unitAmount: 1 })),
              idempotency: {
                scope: 'test',
                key: `${Math.floor(Math.random() * 1_000_000)}`,
                bodyHash: Buffer.from('body'),
              },
            }),
          ),
        ),
      );
      const placed = answers.flatMap((answer) => (answer.outcome === 'placed' ? [answer.order] : []));
      await makeDue(shop.database, shuffled(placed).slice(0, 20));
      recent = [...recent, ...placed].slice(-120);
      counts.placed += placed.length;
    },
    async pay({ orders }: TestProcess) {
      const answers = await Promise.all(
        shuffled(recent)
          .slice(0, 20)
          .map((order) => orders.pay(aPayment(order))),
      );
      counts.paid += answers.filter(({ outcome }) => outcome === 'paid').length;
    },
    async payLate({ orders }: TestProcess) {
      // Those that were due lie among those that were not.
      const lapsed = (await orders.list({ status: 'cancelled', limit: 40 })).orders;
      const mixed = shuffled([...shuffled(lapsed).slice(0, 10), ...shuffled(recent).slice(0, 10)]);
      const answers = await Promise.all(
        mixed.map((order) => orders.pay(aPayment(order, { providerPaymentId: `late ${order.id}` }))),
      );
      const before = new Set(lapsed.map(({ id }) => id));
      counts.reinstated += answers.filter(
        (answer) => answer.outcome === 'paid' && before.has(answer.order.id),
      ).length;
    },
    async open({ orders }: TestProcess) {
      for (const order of shuffled(recent).slice(0, 3)) {
        const wish = { orderId: order.id, handOffAs: 'url', returnUrl: null, actor: 'test' } as const;
        for (const provider of shuffled(['bank', 'wallet'])) {
          const begun = await orders.beginAttempt({ ...wish, provider });
          if (begun.outcome === 'opening') counts.opened += 1;
        }
      }
      await orders.requestReconcile({ provider: 'bank', sinceMs: null });
    },
    async expire({ orders }: TestProcess) {
      const ids = shuffled(recent)
        .slice(0, 60)
        .map(({ id }) => id);
      const answers = await orders.expire(ids, 'test');
      counts.expired += [...answers.values()].filter(({ answer }) => answer === 'cancelled').length;
    },
    async sweep({ orders }: TestProcess) {
      counts.swept += (await orders.sweep(20, 'test')).size;
    },
    async cancel({ orders }: TestProcess) {
      const answers = await Promise.all(
        shuffled(recent)
          .slice(0, 3)
          .map(({ id }) => orders.cancel({ orderId: id, reason: 'customer', actor: 'test' })),
      );
      counts.cancelled += answers.filter(({ outcome }) => outcome === 'cancelled').length;
    },
    async adjust({ orders }: TestProcess) {
      for (const sku of shuffled(skus)) await orders.adjustStock(sku, 1);
      counts.adjusted += 1;
    },
  };
  await loops.checkout(shop);
  const endAt = performance.now() + runMs;
  await Promise.all(
    processes.flatMap((process) =>
      Object.values(loops).map(async (run) => {
        while (performance.now() < endAt) {
          await run(process).catch((error: unknown) => {
            // Rows that all are after may be held for 2 s on a busy machine; a deadlock is counted all the same.
            if (!(error instanceof LockTimeout)) throw error;
          });
        }
      }),
    ),
  );
  await expectConsistent(shop.database);
  for (const count of Object.values(counts)) expect(count).toBeGreaterThan(0);
  expect(await deadlocksOf(shop)).toBe(0);
});

/** The deadlocks in a database since it was made. Ends its connections: what they counted is known only then. */
async function deadlocksOf({ url, database }: TestOrders): Promise<number> {
  const name = new URL(url).pathname.slice(1);
  await database.query(
    'select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()',
    [name],
  );
  const admin = openDatabase({ url: inject('databaseUrl'), app: 'test', log: createLog('test', 'error') });
  try {
    await waitFor(
      async () => {
        const { rows } = await admin.query<{ count: number }>(
          `select count(*) as count from pg_stat_activity where datname = $1 and backend_type = 'client backend'`,
          [name],
        );
        return Number(rows[0]?.count) <= 1;
      },
      { what: 'the connections to end' },
    );
    const { rows } = await admin.query<{ deadlocks: number }>(
      'select deadlocks from pg_stat_database where datname = $1',
      [name],
    );
    return rows[0]?.deadlocks ?? Number.NaN;
  } finally {
    await admin.end();
  }
}

test('a deadlock would be counted', async () => {
  const own = await createTestDatabase({ adminUrl: inject('databaseUrl') });
  const database = openDatabase({ url: own.url, app: 'test', log: createLog('test', 'fatal') });
  await database.query('create table pair as select * from (values (1), (2)) as v (n)');
  const sessions = [await database.connect(), await database.connect()];
  const lock = (session: number, n: number) =>
    sessions[session]?.query('select from pair where n = $1 for update', [n]);
  for (const session of sessions) await session.query('begin');
  await lock(0, 1);
  await lock(1, 2);
  const crossed = await Promise.allSettled([lock(0, 2), lock(1, 1)]);
  expect(crossed.filter(({ status }) => status === 'rejected').length).toBe(1);
  for (const session of sessions) session.release(true);
  await database.end();
  const still = openDatabase({ url: own.url, app: 'test', log: createLog('test', 'fatal') });
  expect(await deadlocksOf({ ...shop, url: own.url, database: still })).toBe(1);
  await still.end();
  await own.drop();
});
