import { databaseProblem, DatabaseUnavailable } from '@lapse/runtime';
import { waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { migrationsDir } from './index.ts';
import {
  aCheckout,
  aPayment,
  expectConsistent,
  openTestOrders,
  place,
  waitingCount,
  type TestOrders,
} from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', null);
  await shop.orders.setStock('b', 100);
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

/** Holds a row in a session of its own, as somebody at a console does, or a backend whose process is lost. */
async function whileHeld(table: string, where: string, work: () => Promise<void>): Promise<void> {
  const session = await shop.database.connect();
  try {
    await session.query('begin');
    await session.query(`select from ${table} where ${where} for update`);
    await work();
  } finally {
    await session.query('rollback');
    session.release();
  }
}

test('an order that somebody holds is answered as unavailable, those paid together with it are paid', async () => {
  const held = await place(shop.orders);
  const [first, last] = [await place(shop.orders), await place(shop.orders)];
  await whileHeld('orders', `id = '${held.id}'`, async () => {
    const [before, stuck, after] = await Promise.allSettled(
      [first, held, last].map((order) => shop.orders.pay(aPayment(order))),
    );
    expect(before).toMatchObject({ value: { outcome: 'paid' } });
    expect(after).toMatchObject({ value: { outcome: 'paid' } });
    expect(stuck).toMatchObject({ reason: { code: 'unavailable' } });
  });
  expect(await shop.orders.pay(aPayment(held))).toMatchObject({ outcome: 'paid' });
});

test('expiry leaves nothing behind in the server where somebody holds an order, and a freeze goes through', async () => {
  const [held, other] = [
    await place(shop.orders, { paymentWindowMs: 1 }),
    await place(shop.orders, { paymentWindowMs: 1 }),
  ];
  await whileHeld('orders', `id = '${held.id}'`, async () => {
    const stuck = shop.orders.expire([held.id, other.id], 'test').catch((error: unknown) => error);
    await waitFor(async () => (await waitingCount(shop.database)) > 0, { what: 'expiry to wait' });
    // It waits for that expiry, and is not stuck behind it.
    const freeze = await shop.orders.freeze({ reason: 'test', actor: 'test' });
    expect(await stuck).toBeInstanceOf(DatabaseUnavailable);
    expect(await waitingCount(shop.database)).toBe(0);
    await shop.orders.thaw(freeze.id, 'test');
  });
  await waitFor(async () => (await shop.orders.thawStep(100)).state === 'done', { what: 'the thaw' });
  const expired = async () => (await shop.orders.find(held.id))?.status === 'cancelled';
  await waitFor(async () => (await shop.orders.sweep(10, 'test')).size === 0 && (await expired()), {
    what: 'the held order to be cancelled after all',
  });
  expect(await shop.orders.find(other.id)).toMatchObject({ status: 'cancelled' });
});

test('a request whose twin hangs with its stock is told so, and does not wait for the stock', async () => {
  const idempotency = { scope: 'test', key: 'hangs', bodyHash: Buffer.from('body') };
  const items = [{ sku: 'b', quantity: 1, unitAmount: 500 }];
  await whileHeld('stock', `sku = 'b'`, async () => {
    const session = await shop.database.connect();
    await session.query('begin');
    await session.query(`select pg_advisory_xact_lock(hashtextextended('test' || chr(31) || 'hangs', 0))`);
    expect(await shop.orders.checkout(aCheckout({ items, idempotency }))).toEqual({
      outcome: 'idempotency_in_progress',
    });
    await session.query('rollback');
    session.release();
  });
});

test('a repetition whose order was erased is answered alone, those placed together with it are placed', async () => {
  const idempotency = { scope: 'test', key: 'erased', bodyHash: Buffer.from('body') };
  const erased = await place(shop.orders, { idempotency });
  await shop.orders.cancel({ orderId: erased.id, reason: 'customer', actor: 'test' });
  await shop.database.query('delete from events where order_id = $1', [erased.id]);
  await shop.database.query('delete from orders where id = $1', [erased.id]);
  const answers = await Promise.all(
    [aCheckout(), aCheckout({ idempotency }), aCheckout()].map((request) => shop.orders.checkout(request)),
  );
  expect(answers).toMatchObject([
    { outcome: 'placed' },
    { outcome: 'order_not_found', orderId: erased.id },
    { outcome: 'placed' },
  ]);
});

test('a database that became read-only is unavailable, and its connections are given up', async () => {
  const { rows } = await shop.database.query<{ name: string }>('select current_database() as name');
  const name = rows[0]?.name ?? '';
  await shop.database.query(`alter database "${name}" set default_transaction_read_only = on`);
  const standby = shop.another({ max: 1 });
  await expect(standby.orders.checkout(aCheckout())).rejects.toThrow(DatabaseUnavailable);
  expect(await databaseProblem(standby.database, migrationsDir)).toBe('read-only');
  await shop.database.query(`alter database "${name}" reset default_transaction_read_only`);
  expect(await standby.orders.checkout(aCheckout())).toMatchObject({ outcome: 'placed' });
});
