import { waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ExpireAnswer } from './expire.ts';
import {
  aPayment,
  expectConsistent,
  expiryOf,
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
  await shop.orders.setStock('a', 100_000);
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const unknownId = '01890000-0000-7000-8000-000000000000';
const items = (sku: string, quantity = 1) => [{ sku, quantity, unitAmount: 500 }];

describe('expire', () => {
  test('cancels an order that is due, puts its stock back and tells how late it was', async () => {
    await shop.orders.setStock('b', 5);
    const order = await place(shop.orders, { items: items('b', 2) });
    await makeDue(shop.database, [order], 3000);
    const answer = (await shop.orders.expire([order.id], 'worker 1')).get(order.id);
    const cancelled = await shop.orders.find(order.id);
    expect(cancelled).toMatchObject({ status: 'cancelled', cancelReason: 'payment_timeout', remainingMs: 0 });
    const latenessMs = (cancelled?.cancelledAt?.getTime() ?? 0) - (cancelled?.expireAt?.getTime() ?? 0);
    expect(answer).toEqual({ answer: 'cancelled', latenessMs });
    expect(latenessMs).toBeGreaterThanOrEqual(3000);
    expect(await shop.orders.readStock('b')).toEqual({ sku: 'b', onHand: 5, held: 0, available: 5 });
    expect((await shop.orders.timeline(order.id)).at(-1)).toEqual({
      id: expect.any(Number),
      type: 'order.cancelled',
      at: cancelled?.cancelledAt,
      actor: 'worker 1',
      data: { reason: 'payment_timeout', expireAt: cancelled?.expireAt?.toISOString(), latenessMs },
    });
  });

  test('never cancels early, however often it is asked', async () => {
    const order = await place(shop.orders, { paymentWindowMs: 300 });
    const answers = [];
    for (;;) {
      const answer = (await shop.orders.expire([order.id], 'test')).get(order.id);
      answers.push(answer);
      if (answer?.answer !== 'not_due') break;
      expect(answer.remainingMs).toBeGreaterThan(0);
      expect(answer.remainingMs).toBeLessThanOrEqual(300);
    }
    expect(answers.length).toBeGreaterThan(1);
    expect(answers.at(-1)).toEqual({ answer: 'cancelled', latenessMs: expect.any(Number) });
    const cancelled = await shop.orders.find(order.id);
    expect(cancelled?.cancelledAt?.getTime()).toBeGreaterThanOrEqual(expiryOf(order).getTime());
  });

  test('answers each id, a repeated one once', async () => {
    const [due, early, paid, gone] = await Promise.all([1, 2, 3, 4].map(() => place(shop.orders)));
    if (!due || !early || !paid || !gone) throw new Error('an order is missing');
    await makeDue(shop.database, [due]);
    await shop.orders.pay(aPayment(paid));
    await shop.orders.cancel({ orderId: gone.id, reason: 'customer', actor: 'test' });
    const ids = [due, early, due, paid, gone, due].map(({ id }) => id);
    expect(await shop.orders.expire([...ids, unknownId, 'no UUID'], 'test')).toEqual(
      new Map([
        [due.id, { answer: 'cancelled', latenessMs: expect.any(Number) }],
        [early.id, { answer: 'not_due', remainingMs: expect.any(Number) }],
        [paid.id, { answer: 'settled' }],
        [gone.id, { answer: 'settled' }],
        [unknownId, { answer: 'unknown' }],
        ['no UUID', { answer: 'unknown' }],
      ]),
    );
    expect((await shop.orders.timeline(due.id)).map(({ type }) => type)).toEqual([
      'order.placed',
      'order.cancelled',
    ]);
  });

  test('does nothing for no ids', async () => {
    expect(await shop.orders.expire([], 'test')).toEqual(new Map());
  });

  test('cancels each order once when several processes expire the same ones', async () => {
    await shop.orders.setStock('many', 300);
    const processes = [shop.orders, shop.another().orders, shop.another().orders];
    const orders = await placeMany(shop.orders, 300, { items: items('many') });
    await makeDue(shop.database, orders);
    const ids = orders.map(({ id }) => id);
    const answers = await Promise.all(
      processes.map((process, n) => process.expire(n % 2 === 0 ? ids : ids.toReversed(), 'test')),
    );
    for (const id of ids) {
      expect(answers.map((answer) => answer.get(id)?.answer ?? '').toSorted()).toEqual([
        'cancelled',
        'settled',
        'settled',
      ]);
    }
    expect(await shop.orders.readStock('many')).toMatchObject({ onHand: 300, held: 0 });
  });
});

describe('sweep', () => {
  test('finds nothing where nothing is due', async () => {
    await place(shop.orders);
    expect(await shop.orders.sweep(10, 'test')).toEqual(new Map());
  });

  test('takes those that wait longest first, no more than it was told', async () => {
    const orders = await placeMany(shop.orders, 5);
    for (const [n, order] of orders.entries())
      await makeDue(shop.database, [order], ([3, 5, 1, 4, 2][n] ?? 0) * 1000);
    const byAge = [1, 3, 0, 4, 2].map((n) => orders[n]?.id ?? '');
    expect([...(await shop.orders.sweep(2, 'test')).keys()].toSorted()).toEqual(byAge.slice(0, 2).toSorted());
    expect([...(await shop.orders.sweep(2, 'test')).keys()].toSorted()).toEqual(byAge.slice(2, 4).toSorted());
    expect([...(await shop.orders.sweep(2, 'test')).keys()]).toEqual(byAge.slice(4));
    expect(await shop.orders.sweep(2, 'test')).toEqual(new Map());
  });

  test('leaves rows alone that somebody works on, and does not wait for them', async () => {
    const orders = await placeMany(shop.orders, 4);
    await makeDue(shop.database, orders);
    const [first, ...others] = orders.map(({ id }) => id);
    const session = await shop.database.connect();
    try {
      await session.query('begin');
      await session.query('select from orders where id = $1 for no key update', [first]);
      const swept = await shop.orders.sweep(10, 'test');
      expect([...swept.keys()].toSorted()).toEqual(others.toSorted());
    } finally {
      await session.query('rollback');
      session.release();
    }
    expect([...(await shop.orders.sweep(10, 'test')).keys()]).toEqual([first]);
  });

  test('of several processes takes each order once', async () => {
    const processes = [shop.orders, shop.another().orders, shop.another().orders];
    const orders = await placeMany(shop.orders, 500);
    await makeDue(shop.database, orders);
    const swept: string[] = [];
    await Promise.all(
      processes.map(async (process) => {
        for (
          let round = await process.sweep(20, 'test');
          round.size > 0;
          round = await process.sweep(20, 'test')
        ) {
          for (const [id, { answer }] of round) if (answer === 'cancelled') swept.push(id);
        }
      }),
    );
    expect(swept.toSorted()).toEqual(orders.map(({ id }) => id).toSorted());
  });

  test('counts what is overdue and how long', async () => {
    expect(await shop.orders.backlog()).toEqual({ overdueCount: 0, oldestOverdueMs: 0 });
    const orders = await placeMany(shop.orders, 3);
    await makeDue(shop.database, orders, 120_000);
    const { overdueCount, oldestOverdueMs } = await shop.orders.backlog();
    expect(overdueCount).toBe(3);
    expect(oldestOverdueMs).toBeGreaterThanOrEqual(120_000);
    await shop.orders.sweep(10, 'test');
  });
});

/** Places eleven orders that are due; the one that waits longest holds stock that the books do not know of. */
async function placePoisoned(sku: string) {
  await shop.orders.setStock(sku, 100);
  await shop.orders.setStock(`${sku} poisoned`, 100);
  const poisoned = await place(shop.orders, { items: items(`${sku} poisoned`, 2) });
  const others = await placeMany(shop.orders, 10, { items: items(sku) });
  await makeDue(shop.database, [poisoned], 9000);
  await makeDue(shop.database, others, 1000);
  // Its release would leave less than nothing held.
  await shop.database.query('update stock set held = 1 where sku = $1', [`${sku} poisoned`]);
  return {
    poisoned,
    others,
    heal: async () => {
      await shop.database.query('update stock set held = 2 where sku = $1', [`${sku} poisoned`]);
      await shop.orders.expire([poisoned.id], 'test');
    },
  };
}

describe('an order that cannot be cancelled', () => {
  test('fails alone among the fired ones', async () => {
    const { poisoned, others, heal } = await placePoisoned('fired');
    const ids = [...others.slice(0, 4), poisoned, ...others.slice(4)].map(({ id }) => id);
    const answers = await shop.orders.expire(ids, 'test');
    expect(answers.get(poisoned.id)).toEqual({
      answer: 'failed',
      error: expect.objectContaining({ code: '23514', constraint: 'stock_held_range' }),
    });
    for (const { id } of others) expect(answers.get(id)).toMatchObject({ answer: 'cancelled' });
    expect(await shop.orders.readStock('fired')).toMatchObject({ held: 0 });
    await heal();
    expect(await shop.orders.find(poisoned.id)).toMatchObject({ status: 'cancelled' });
  });

  test('does not keep a small sweep from reaching the others', async () => {
    const { poisoned, others, heal } = await placePoisoned('swept');
    const swept = new Map<string, ExpireAnswer>();
    for (let round = 0; round <= others.length; round += 1) {
      for (const [id, answer] of await shop.orders.sweep(1, 'test')) swept.set(id, answer);
    }
    expect(swept.get(poisoned.id)).toMatchObject({ answer: 'failed' });
    expect([...swept.keys()].toSorted()).toEqual([poisoned, ...others].map(({ id }) => id).toSorted());
    const { rows } = await shop.database.query(
      `select check_at > clock_timestamp() + interval '30 seconds' as "isPutOff", status from orders where id = $1`,
      [poisoned.id],
    );
    expect(rows).toEqual([{ isPutOff: true, status: 'pending_payment' }]);
    await heal();
  });
});

test('a lost sweeper gives its rows back', async () => {
  const orders = await placeMany(shop.orders, 3);
  await makeDue(shop.database, orders);
  const session = await shop.database.connect();
  session.on('error', () => {
    // It is ended below.
  });
  await session.query('begin');
  await session.query('select from orders for no key update');
  const { rows } = await session.query<{ pid: number }>('select pg_backend_pid() as pid');
  expect(await shop.orders.sweep(10, 'test')).toEqual(new Map());
  await shop.database.query('select pg_terminate_backend($1)', [rows[0]?.pid]);
  session.release(true);
  const swept = await waitFor(
    async () => {
      const round = await shop.orders.sweep(10, 'test');
      return round.size > 0 && round;
    },
    { what: 'the rows to be free' },
  );
  expect([...swept.values()].map(({ answer }) => answer)).toEqual(['cancelled', 'cancelled', 'cancelled']);
});
