import { createHash } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Order } from './order.ts';
import {
  aPayment,
  expectConsistent,
  makeDue,
  openTestOrders,
  place,
  placeMany,
  type TestOrders,
} from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
});
beforeEach(async () => {
  await shop.database.query(
    'truncate orders, payment_attempts, payments, refunds, events, idempotency_keys, stock',
  );
  await shop.orders.setStock('a', 10_000);
});
afterEach(() => expectConsistent(shop.database));
afterAll(() => shop.close());

/** Removes, from the oldest on, whatever was settled before this call, or `olderThanMs` before it. */
async function removeAll(olderThanMs = 0, limit = 500): Promise<number> {
  let removedCount = 0;
  for (let after: string | null = null; ;) {
    const removal = await shop.orders.removeSettled({ olderThanMs, after, limit });
    if (removal.state === 'busy') throw new Error('nobody else should be at it');
    removedCount += removal.removedCount;
    ({ after } = removal);
    if (removal.isAll) return removedCount;
  }
}

const pay = async (order: Order, changes: Parameters<typeof aPayment>[1] = {}): Promise<string> =>
  (await shop.orders.pay(aPayment(order, changes))).outcome;
const cancel = (order: Order) => shop.orders.cancel({ orderId: order.id, reason: 'customer', actor: 'test' });

async function idsIn(table: 'orders' | 'payments' | 'events'): Promise<string[]> {
  const column = table === 'orders' ? 'id' : 'order_id';
  const { rows } = await shop.database.query<{ id: string }>(
    `select distinct ${column} as id from ${table} order by 1`,
  );
  return rows.map(({ id }) => id);
}

async function expire(order: Order): Promise<void> {
  await makeDue(shop.database, [order]);
  await shop.orders.expire([order.id], 'test');
}

test('paid and cancelled orders go, with their payments and events, and the stock stays as it is', async () => {
  const [paid, cancelled, lapsed] = [
    await place(shop.orders),
    await place(shop.orders),
    await place(shop.orders),
  ];
  await pay(paid);
  await cancel(cancelled);
  await expire(lapsed);
  const stock = await shop.orders.readStock('a');
  expect(stock).toMatchObject({ onHand: 9999, held: 0 });

  expect(await removeAll()).toBe(3);
  for (const table of ['orders', 'payments', 'events'] as const) expect(await idsIn(table)).toEqual([]);
  expect(await shop.orders.readStock('a')).toEqual(stock);
  expect(await shop.orders.find(paid.id)).toBeUndefined();
});

describe('what stays, however old:', () => {
  test('a pending order, due or not', async () => {
    const [pending, due] = [await place(shop.orders), await place(shop.orders)];
    await makeDue(shop.database, [due]);
    expect(await removeAll()).toBe(0);
    expect(await idsIn('orders')).toEqual([pending.id, due.id].toSorted());
  });

  test.each<[string, (order: Order) => Promise<unknown>]>([
    ['late', async (order) => [await cancel(order), await pay(order)]],
    ['duplicate', async (order) => [await pay(order), await pay(order, { providerPaymentId: order.id })]],
    ['mismatched', async (order) => [await pay(order, { amount: 1 }), await cancel(order)]],
  ])('an order with %s money on the work list', async (_, happen) => {
    const [kept, gone] = [await place(shop.orders), await place(shop.orders)];
    await happen(kept);
    await cancel(gone);
    expect(await removeAll()).toBe(1);
    for (const table of ['orders', 'payments', 'events'] as const)
      expect(await idsIn(table)).toEqual([kept.id]);
  });

  test('an order that was settled lately', async () => {
    await cancel(await place(shop.orders));
    expect(await removeAll(3_600_000)).toBe(0);
    expect(await removeAll()).toBe(1);
  });

  test('an order whose money came, or went back, lately', async () => {
    const [late, returned, gone] = [
      await place(shop.orders),
      await place(shop.orders),
      await place(shop.orders),
    ];
    for (const order of [late, returned, gone]) {
      await cancel(order);
      await pay(order, { verified: true });
      const [payment] = await shop.orders.payments(order.id);
      const confirmed = { state: 'confirmed', providerRefundId: order.id, actor: 'test' } as const;
      await shop.orders.recordRefund({ refundId: payment?.refund?.id ?? '' }, confirmed);
    }
    const hourLater = async (table: string, column: string, condition: string, orderId: string) => {
      await shop.database.query(
        `update ${table} set ${column} = ${column} + interval '1 hour' where ${condition}`,
        [orderId],
      );
    };
    await hourLater('payments', 'recorded_at', 'order_id = $1', late.id);
    await hourLater('refunds', 'confirmed_at', 'provider_refund_id = $1::text', returned.id);
    expect(await removeAll()).toBe(1);
    expect(await idsIn('orders')).toEqual([late.id, returned.id].toSorted());
  });

  test('an old order that was paid lately', async () => {
    const [old, young] = [await place(shop.orders), await place(shop.orders)];
    await cancel(old);
    await pay(young);
    await shop.database.query("update orders set paid_at = paid_at + interval '1 hour' where id = $1", [
      young.id,
    ]);
    expect(await removeAll()).toBe(1);
    expect(await idsIn('orders')).toEqual([young.id]);
  });
});

test('what stays is passed once: the next batch begins behind the last', async () => {
  const kept = await placeMany(shop.orders, 30);
  const settled = await placeMany(shop.orders, 30);
  for (const order of settled) await cancel(order);
  const first = await shop.orders.removeSettled({ olderThanMs: 0, after: null, limit: 25 });
  expect(first).toMatchObject({ state: 'done', removedCount: 0, isAll: false });
  expect(await removeAll(0, 25)).toBe(30);
  expect((await idsIn('orders')).length).toBe(kept.length);

  const second = await shop.orders.removeSettled({ olderThanMs: 0, after: null, limit: 500 });
  if (second.state !== 'done') throw new Error('nobody else should be at it');
  const late = await place(shop.orders);
  await cancel(late);
  const third = await shop.orders.removeSettled({ olderThanMs: 0, after: second.after, limit: 500 });
  expect(third).toEqual({ state: 'done', removedCount: 1, after: late.id, isAll: true });
});

test('of several processes one removes at a time, and each order goes once', async () => {
  const settled = await placeMany(shop.orders, 300);
  await Promise.all(settled.map(cancel));
  const processes = Array.from({ length: 4 }, () => shop.another().orders);
  const removed = await Promise.all(
    processes.map(async (orders) => {
      let removedCount = 0;
      for (let after: string | null = null; ;) {
        const removal = await orders.removeSettled({ olderThanMs: 0, after, limit: 20 });
        if (removal.state === 'busy') continue;
        removedCount += removal.removedCount;
        ({ after } = removal);
        if (removal.isAll) return removedCount;
      }
    }),
  );
  expect(removed.reduce((sum, count) => sum + count)).toBe(300);
  expect(await idsIn('orders')).toEqual([]);
});

test('while one process removes, another is told so', async () => {
  const other = await shop.another().database.connect();
  try {
    await other.query('begin');
    await other.query('select pg_advisory_xact_lock(73843)');
    expect(await shop.orders.removeSettled({ olderThanMs: 0, after: null, limit: 1 })).toEqual({
      state: 'busy',
    });
    await other.query('rollback');
  } finally {
    other.release();
  }
});

test('an order that somebody has in hand is left for the next round', async () => {
  const [busy, idle] = [await place(shop.orders), await place(shop.orders)];
  await cancel(busy);
  await cancel(idle);
  const other = await shop.another().database.connect();
  try {
    await other.query('begin');
    await other.query('select from orders where id = $1 for no key update', [busy.id]);
    expect(await removeAll()).toBe(1);
    await other.query('rollback');
  } finally {
    other.release();
  }
  expect(await idsIn('orders')).toEqual([busy.id]);
  expect(await removeAll()).toBe(1);
});

test('money that comes while its order is removed is refused, or it keeps the order; none is lost', async () => {
  const payer = shop.another().orders;
  const outcomes = new Map<string, number>();
  for (let round = 0; round < 8; round += 1) {
    const cancelled = await placeMany(shop.orders, 40);
    await Promise.all(cancelled.map(cancel));
    const paying = cancelled.map(async (order, n) => {
      for (let turn = 0; turn < n + round; turn += 1) await new Promise((resolve) => setImmediate(resolve));
      const { outcome } = await payer.pay(aPayment(order));
      return { order, outcome };
    });
    const removing = (async () => {
      while ((await removeAll(0, 10)) > 0);
    })();
    const [answers] = await Promise.all([Promise.all(paying), removing]);
    for (const { order, outcome } of answers) {
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      const listed = await shop.orders.payments(order.id);
      expect(listed.map((payment) => payment.outcome)).toEqual(outcome === 'late' ? ['late'] : []);
      expect((await shop.orders.find(order.id))?.status).toBe(outcome === 'late' ? 'cancelled' : undefined);
    }
  }
  expect([...outcomes.keys()].toSorted()).toEqual(['late', 'order_not_found']);
});

test('a payment that is repeated with its key is not found when its order was removed since', async () => {
  const order = await place(shop.orders);
  const bodyHash = createHash('sha256').update('body').digest();
  const payment = aPayment(order, { idempotency: { scope: 'pay', key: 'once', bodyHash } });
  expect(await shop.orders.pay(payment)).toMatchObject({ outcome: 'paid' });
  expect(await removeAll()).toBe(1);
  expect(await shop.orders.pay(payment)).toEqual({ outcome: 'order_not_found' });
});
