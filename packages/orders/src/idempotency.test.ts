import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { IdempotencyKey } from './idempotency.ts';
import { aCheckout, aPayment, expectConsistent, openTestOrders, place, type TestOrders } from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', 10_000);
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

function aKey(key: string, body = 'body', scope = 'key 1 POST /v1/orders'): IdempotencyKey {
  return { scope, key, bodyHash: createHash('sha256').update(body).digest() };
}

async function age(key: string, by: string): Promise<void> {
  await shop.database.query(
    'update idempotency_keys set created_at = created_at - $2::interval where key = $1',
    [key, by],
  );
}

test('one key 50 times in two processes places one order, and the others are told of it', async () => {
  const processes = [shop.orders, shop.another().orders];
  const answers = await Promise.all(
    Array.from({ length: 25 }, () =>
      processes.map((orders) => orders.checkout(aCheckout({ idempotency: aKey('fifty') }))),
    ).flat(),
  );
  const placed = answers.filter((answer) => answer.outcome === 'placed');
  expect(placed.length).toBe(50);
  expect(new Set(placed.map(({ order }) => order.id)).size).toBe(1);
  expect(placed.filter(({ replayed }) => !replayed).length).toBe(1);
});

test('twins in two processes, each alone in its batch, place one order', async () => {
  const processes = [shop.orders, shop.another().orders];
  for (let round = 0; round < 30; round += 1) {
    // A process whose last batch was plain tries to place the next one at once.
    for (const orders of processes) await place(orders);
    const answers = await Promise.all(
      processes.map((orders) => orders.checkout(aCheckout({ idempotency: aKey(`twin ${round}`) }))),
    );
    const ids = answers.map((answer) => (answer.outcome === 'placed' ? answer.order.id : answer.outcome));
    expect(new Set(ids).size).toBe(1);
  }
});

test('a replay tells the order as it is now', async () => {
  const order = await place(shop.orders, { idempotency: aKey('now') });
  await shop.orders.cancel({ orderId: order.id, reason: 'customer', actor: 'test' });
  expect(await shop.orders.checkout(aCheckout({ idempotency: aKey('now') }))).toMatchObject({
    outcome: 'placed',
    replayed: true,
    order: { id: order.id, status: 'cancelled' },
  });
});

test('the same key with another body is refused, in another scope it is another key', async () => {
  const order = await place(shop.orders, { idempotency: aKey('reused') });
  expect(await shop.orders.checkout(aCheckout({ idempotency: aKey('reused', 'another body') }))).toEqual({
    outcome: 'idempotency_key_reused',
  });
  const elsewhere = await place(shop.orders, {
    idempotency: aKey('reused', 'body', 'key 2 POST /v1/orders'),
  });
  expect(elsewhere.id).not.toBe(order.id);
});

test('of two bodies with one key at the same time one is placed and the other refused', async () => {
  const answers = await Promise.all(
    ['one', 'other'].map((body) => shop.orders.checkout(aCheckout({ idempotency: aKey('twins', body) }))),
  );
  expect(answers.map(({ outcome }) => outcome)).toEqual(['placed', 'idempotency_key_reused']);
});

test('only success is kept: what was out of stock is placed once there is stock', async () => {
  await shop.orders.setStock('later', 0);
  const checkout = () =>
    shop.orders.checkout(
      aCheckout({ items: [{ sku: 'later', quantity: 1, unitAmount: 1 }], idempotency: aKey('restock') }),
    );
  expect(await checkout()).toEqual({ outcome: 'out_of_stock', skus: ['later'] });
  await shop.orders.setStock('later', 1);
  expect(await checkout()).toMatchObject({ outcome: 'placed', replayed: false });
  expect(await checkout()).toMatchObject({ outcome: 'placed', replayed: true });
});

test('a key is kept for 24 hours and is fresh afterwards', async () => {
  const first = await place(shop.orders, { idempotency: aKey('day') });
  await age('day', '23 hours 59 minutes');
  expect((await place(shop.orders, { idempotency: aKey('day') })).id).toBe(first.id);
  await age('day', '1 minute');
  const second = await shop.orders.checkout(aCheckout({ idempotency: aKey('day', 'another body') }));
  expect(second).toMatchObject({ outcome: 'placed', replayed: false });
  expect(await shop.orders.checkout(aCheckout({ idempotency: aKey('day', 'another body') }))).toMatchObject({
    outcome: 'placed',
    replayed: true,
  });
});

test('the purge removes keys older than 24 hours from the blocks it was told, and no others', async () => {
  await Promise.all(
    ['old 1', 'old 2', 'old 3', 'young'].map((key) => place(shop.orders, { idempotency: aKey(key) })),
  );
  await shop.database.query(
    `update idempotency_keys set created_at = created_at - interval '25 hours' where key like 'old %'`,
  );
  const purge = (from: number, count: number) => shop.orders.purgeIdempotencyKeys({ from, count });
  expect(await purge(100, 100)).toEqual({ purgedCount: 0, isAll: true });
  let purgedCount = 0;
  for (let from = 0, isAll = false; !isAll; from += 1) {
    const step = await purge(from, 1);
    purgedCount += step.purgedCount;
    ({ isAll } = step);
  }
  expect(purgedCount).toBe(3);
  expect(await purge(0, 100)).toEqual({ purgedCount: 0, isAll: true });
  const { rows } = await shop.database.query(
    `select key from idempotency_keys where key like 'old %' or key = 'young'`,
  );
  expect(rows).toEqual([{ key: 'young' }]);
});

test('a twin that hangs elsewhere ends its own patience and holds up nobody else in the batch', async () => {
  const { scope, key } = aKey('hanging');
  const session = await shop.database.connect();
  try {
    await session.query('begin');
    await session.query('set local idle_in_transaction_session_timeout = 0');
    await session.query(`select pg_advisory_xact_lock(hashtextextended($1 || chr(31) || $2, 0))`, [
      scope,
      key,
    ]);
    const order: string[] = [];
    const twin = shop.orders
      .checkout(aCheckout({ idempotency: aKey('hanging') }))
      .finally(() => order.push('the twin'));
    await Promise.all([1, 2, 3].map((n) => place(shop.orders, { idempotency: aKey(`beside ${n}`) })));
    order.push('the others');
    expect(await twin).toEqual({ outcome: 'idempotency_in_progress' });
    expect(order).toEqual(['the others', 'the twin']);
  } finally {
    await session.query('rollback');
    session.release();
  }
  expect(await shop.orders.checkout(aCheckout({ idempotency: aKey('hanging') }))).toMatchObject({
    outcome: 'placed',
    replayed: false,
  });
});

test('a request waits for a twin that runs elsewhere and is then told what became of it', async () => {
  const other = shop.another();
  const { scope, key } = aKey('waits');
  const session = await shop.database.connect();
  await session.query('begin');
  await session.query(`select pg_advisory_xact_lock(hashtextextended($1 || chr(31) || $2, 0))`, [scope, key]);
  const both = [shop.orders, other.orders].map((orders) =>
    orders.checkout(aCheckout({ idempotency: aKey('waits') })),
  );
  await session.query('rollback');
  session.release();
  const answers = await Promise.all(both);
  expect(
    answers.map((answer) => (answer.outcome === 'placed' ? `replayed: ${answer.replayed}` : '')).toSorted(),
  ).toEqual(['replayed: false', 'replayed: true']);
});

test('a payment is replayed with the outcome it had', async () => {
  const idempotency = aKey('pay', 'body', 'key 1 POST /v1/payments');
  const order = await place(shop.orders);
  const first = await shop.orders.pay(aPayment(order, { idempotency }));
  const again = await shop.orders.pay(aPayment(order, { idempotency }));
  expect(first).toMatchObject({ outcome: 'paid', payment: { listedAt: null } });
  expect(again).toEqual(first);
  expect(await shop.orders.pay(aPayment(order))).toMatchObject({ outcome: 'already_recorded' });
  const reused = await shop.orders.pay(aPayment(order, { idempotency: aKey('pay', 'x', idempotency.scope) }));
  expect(reused).toEqual({ outcome: 'idempotency_key_reused' });
});

test('a payment key that was told of a late payment goes on telling it', async () => {
  const idempotency = aKey('late', 'body', 'key 1 POST /v1/payments');
  const order = await place(shop.orders);
  await shop.orders.cancel({ orderId: order.id, reason: 'merchant', actor: 'test' });
  for (let time = 0; time < 3; time += 1) {
    expect(await shop.orders.pay(aPayment(order, { idempotency }))).toMatchObject({ outcome: 'late' });
  }
  expect((await shop.orders.payments(order.id)).length).toBe(1);
});

test('one payment key 20 times in two processes records one payment', async () => {
  const idempotency = aKey('pay twenty', 'body', 'key 1 POST /v1/payments');
  const processes = [shop.orders, shop.another().orders];
  const order = await place(shop.orders);
  const answers = await Promise.all(
    Array.from({ length: 10 }, () =>
      processes.map((orders) => orders.pay(aPayment(order, { idempotency }))),
    ).flat(),
  );
  expect(new Set(answers.map(({ outcome }) => outcome))).toEqual(new Set(['paid']));
  expect((await shop.orders.payments(order.id)).length).toBe(1);
});
