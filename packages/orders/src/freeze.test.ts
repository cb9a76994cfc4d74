import { waitFor } from '@lapse/devstack';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Freeze } from './freeze.ts';
import type { MovedDeadline } from './thaw.ts';
import type { Order } from './order.ts';
import {
  aCheckout,
  aPayment,
  beginThaw,
  deadlineOf,
  expectConsistent,
  expiryOf,
  letPass,
  makeDue,
  openTestOrders,
  place,
  placeMany,
  type TestOrders,
} from './testing.ts';

let shop: TestOrders;
beforeEach(async () => {
  // A freeze holds every order there is: each test has a database of its own.
  shop = await openTestOrders();
  await shop.orders.setStock('a', 100_000);
});
afterEach(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const freeze = () => shop.orders.freeze({ reason: 'the bank is down', actor: 'test' });

const thaw = (id: string): Promise<Freeze> => beginThaw(shop.orders, id);

/** The next step that is not to wait: old transactions in other databases of the server are waited for, too. */
const nextStep = (limit: number) =>
  waitFor(
    async () => {
      const step = await shop.orders.thawStep(limit);
      return step.state !== 'waiting' && step;
    },
    { what: 'older transactions to end', timeoutMs: 20_000 },
  );

/** Goes on until every thaw is done; answers what was moved, in order. */
async function finishThaws(limit = 1000): Promise<MovedDeadline[]> {
  const moved: MovedDeadline[] = [];
  let from: Date | undefined;
  for (;;) {
    const step = await shop.orders.thawStep(limit, from);
    if (step.state === 'idle') return moved;
    if (step.state === 'moved') {
      moved.push(...step.deadlines);
      from = step.through;
    }
  }
}

async function find({ id }: Order): Promise<Order> {
  const order = await shop.orders.find(id);
  if (order === undefined) throw new Error('there is no such order');
  return order;
}

/** How long a freeze lasted, ms. */
const spanMs = ({ frozenAt, thawingAt }: Freeze) => (thawingAt?.getTime() ?? 0) - frozenAt.getTime();

/** The payment window an order has had, ms; what freezes gave back included. */
const windowMs = (order: Order): number => (order.deadlineAt?.getTime() ?? 0) - order.createdAt.getTime();

test('nothing expires while the clock stands still, but money and people are served', async () => {
  const [due, paid, cancelled] = [
    await place(shop.orders),
    await place(shop.orders),
    await place(shop.orders),
  ];
  const { id } = await freeze();
  await makeDue(shop.database, [due, paid, cancelled]);
  expect(await shop.orders.expire([due.id], 'test')).toEqual(new Map([[due.id, { answer: 'frozen' }]]));
  expect(await shop.orders.sweep(10, 'test')).toEqual(new Map());
  expect(await shop.orders.pay(aPayment(paid))).toMatchObject({ outcome: 'paid' });
  expect(
    await shop.orders.cancel({ orderId: cancelled.id, reason: 'customer', actor: 'test' }),
  ).toMatchObject({
    outcome: 'cancelled',
  });
  expect(await shop.orders.activeFreeze()).toMatchObject({ id, state: 'frozen', reason: 'the bank is down' });
});

test('the thaw moves a deadline by exactly the time the order stood frozen', async () => {
  const order = await place(shop.orders);
  await letPass(shop.database, 20_000);
  await freeze();
  await letPass(shop.database, 300_000);
  const [frozen] = await shop.orders.freezes(1);
  const { thawingAt } = await thaw(frozen?.id ?? '');
  const stoodMs = (thawingAt?.getTime() ?? 0) - (frozen?.frozenAt.getTime() ?? 0);
  expect(stoodMs).toBeGreaterThanOrEqual(300_000);

  const before = await find(order);
  expect(await finishThaws()).toEqual([
    {
      orderId: order.id,
      partition: 0,
      createdAt: before.createdAt,
      expireAt: new Date(expiryOf(before).getTime() + stoodMs),
      remindAt: null,
    },
  ]);
  expect(windowMs(await find(order))).toBe(60_000 + stoodMs);
  expect((await shop.orders.timeline(order.id)).at(-1)).toMatchObject({
    type: 'order.thawed',
    actor: 'test',
    data: {
      freezeId: frozen?.id,
      frozenMs: stoodMs,
      from: deadlineOf(before).toISOString(),
      to: new Date(deadlineOf(before).getTime() + stoodMs).toISOString(),
    },
  });
  expect(await shop.orders.activeFreeze()).toBeUndefined();
  expect(await shop.orders.freezes(10)).toMatchObject([{ state: 'done', doneAt: expect.any(Date) }]);
});

test('an order is held from the freeze until the thaw has moved it, and then has the time it had left', async () => {
  const order = await place(shop.orders);
  await letPass(shop.database, 30_000);
  const { id } = await freeze();
  await letPass(shop.database, 600_000);
  await thaw(id);
  expect(await shop.orders.expire([order.id], 'test')).toEqual(new Map([[order.id, { answer: 'frozen' }]]));
  expect(await shop.orders.sweep(10, 'test')).toEqual(new Map());
  await finishThaws();
  expect((await shop.orders.expire([order.id], 'test')).get(order.id)).toMatchObject({ answer: 'not_due' });
  await letPass(shop.database, 30_000);
  expect((await shop.orders.sweep(10, 'test')).get(order.id)).toMatchObject({ answer: 'cancelled' });
});

test('an order from within the freeze gets only its share of it', async () => {
  const { id } = await freeze();
  await letPass(shop.database, 100_000);
  const order = await place(shop.orders);
  await letPass(shop.database, 30_000);
  const { thawingAt } = await thaw(id);
  await finishThaws();
  const after = await find(order);
  const share = (thawingAt?.getTime() ?? 0) - after.createdAt.getTime();
  expect(windowMs(after)).toBe(60_000 + share);
  expect(share).toBeGreaterThanOrEqual(30_000);
  expect(share).toBeLessThan(100_000);
});

test('an order from after the thaw began is not held and not moved', async () => {
  const old = await place(shop.orders);
  const { id } = await freeze();
  await letPass(shop.database, 100_000);
  await thaw(id);
  await letPass(shop.database, 1000);
  const young = await place(shop.orders);
  await makeDue(shop.database, [young], 0);
  await shop.database.query(
    `update orders set created_at = clock_timestamp() - interval '500 ms' where id = $1`,
    [young.id],
  );
  expect((await shop.orders.sweep(10, 'test')).get(young.id)).toMatchObject({ answer: 'cancelled' });
  expect((await finishThaws()).map(({ orderId }) => orderId)).toEqual([old.id]);
});

test('overlapping freezes count their union, however they are thawed', async () => {
  const order = await place(shop.orders);
  await letPass(shop.database, 10_000);
  const first = await freeze();
  await letPass(shop.database, 100_000);
  const second = await freeze();
  await letPass(shop.database, 100_000);
  await thaw(first.id);
  await finishThaws();
  expect((await find(order)).status).toBe('pending_payment');
  expect(await shop.orders.expire([order.id], 'test')).toEqual(new Map([[order.id, { answer: 'frozen' }]]));
  await letPass(shop.database, 100_000);
  await thaw(second.id);
  await finishThaws();

  const freezes = await shop.orders.freezes(10);
  const startMs = Math.min(...freezes.map(({ frozenAt }) => frozenAt.getTime()));
  const endMs = Math.max(...freezes.map(({ thawingAt }) => thawingAt?.getTime() ?? 0));
  expect(endMs - startMs).toBeGreaterThanOrEqual(300_000);
  expect(windowMs(await find(order))).toBe(60_000 + endMs - startMs);
});

test('a freeze within a freeze counts once, and the time between two freezes does not count', async () => {
  const order = await place(shop.orders);
  const outer = await freeze();
  await letPass(shop.database, 100_000);
  const inner = await freeze();
  await letPass(shop.database, 10_000);
  await thaw(inner.id);
  await letPass(shop.database, 100_000);
  await thaw(outer.id);
  await letPass(shop.database, 50_000);
  const later = await freeze();
  await letPass(shop.database, 7000);
  await thaw(later.id);
  await finishThaws();

  const byId = new Map((await shop.orders.freezes(10)).map((each) => [each.id, spanMs(each)]));
  const expectedMs = (byId.get(outer.id) ?? 0) + (byId.get(later.id) ?? 0);
  expect(expectedMs).toBeGreaterThanOrEqual(217_000);
  expect(windowMs(await find(order))).toBe(60_000 + expectedMs);
});

test('an order of a transaction that was open when the thaw began is moved before the freeze is done', async () => {
  const { id } = await freeze();
  const session = await shop.database.connect();
  try {
    await session.query('begin');
    await session.query(`
      insert into orders (
        id, partition, channel, payment_method, currency, amount, items, metadata,
        created_at, deadline_at, expire_at, check_at
      )
      select
        '01890000-0000-7000-8000-000000000001', 0, 'web', 'card', 'EUR', 500,
        '[{"sku": "a", "quantity": 1, "unitAmount": 500}]', '{}', at, at + interval '1 minute',
        at + interval '1 minute', at + interval '1 minute'
      from (select clock_timestamp() - interval '5 seconds' as at) as clock`);
    await session.query(`
      insert into events (order_id, type, actor, at, data)
      values ('01890000-0000-7000-8000-000000000001', 'order.placed', 'test', clock_timestamp(), '{}')`);
    await session.query(`update stock set held = held + 1 where sku = 'a'`);
    await thaw(id);
    expect(await shop.orders.thawStep(10)).toEqual({ state: 'waiting' });
    expect(await shop.orders.activeFreeze()).toMatchObject({ id, state: 'thawing' });
    await session.query('commit');
  } finally {
    session.release();
  }
  expect(await nextStep(10)).toMatchObject({
    state: 'moved',
    deadlines: [{ orderId: '01890000-0000-7000-8000-000000000001' }],
  });
  expect(await nextStep(10)).toEqual({ state: 'done', freezeId: id });
});

test('pages go on where they ended, and no order is moved twice', async () => {
  const orders = await placeMany(shop.orders, 25);
  const { id } = await freeze();
  await letPass(shop.database, 10_000);
  await thaw(id);
  const sizes: number[] = [];
  const moved = new Set<string>();
  let from: Date | undefined;
  for (;;) {
    // Every other page begins anew, as after a crash.
    const step = await shop.orders.thawStep(10, sizes.length % 2 === 0 ? undefined : from);
    if (step.state !== 'moved') break;
    sizes.push(step.deadlines.length);
    from = step.through;
    for (const { orderId } of step.deadlines) moved.add(orderId);
  }
  expect(sizes).toEqual([10, 10, 5]);
  expect(moved).toEqual(new Set(orders.map(({ id: orderId }) => orderId)));
  const windows = await Promise.all(orders.map(async (order) => windowMs(await find(order))));
  for (const [n, order] of orders.entries()) {
    const events = await shop.orders.timeline(order.id);
    expect(events.map(({ type }) => type)).toEqual(['order.placed', 'order.thawed']);
    expect(windows[n]).toBe(60_000 + Number(events[1]?.data['frozenMs']));
  }
});

test('one process at a time moves, and a thaw that several go on with moves each order once', async () => {
  const orders = await placeMany(shop.orders, 200);
  const { id } = await freeze();
  await letPass(shop.database, 10_000);
  await thaw(id);
  const processes = [shop.orders, shop.another().orders, shop.another().orders];
  const moved: string[] = [];
  await Promise.all(
    processes.map(async (process) => {
      while ((await process.activeFreeze()) !== undefined) {
        const step = await process.thawStep(7);
        if (step.state === 'moved') moved.push(...step.deadlines.map(({ orderId }) => orderId));
      }
    }),
  );
  expect(moved.toSorted()).toEqual(orders.map(({ id: orderId }) => orderId).toSorted());
});

test('a page whose orders are all paid in the last moment does not end the thaw for those behind it', async () => {
  const [first, second] = [await place(shop.orders), await place(shop.orders, { paymentWindowMs: 61_000 })];
  const { id } = await freeze();
  await letPass(shop.database, 10_000);
  await thaw(id);
  const session = await shop.database.connect();
  await session.query('begin');
  await session.query('select from orders where id = $1 for no key update', [first.id]);
  const paying = shop.orders.pay(aPayment(first));
  const step = shop.orders.thawStep(1);
  // Both wait for the row: the payment in front, the thaw behind it.
  await waitForBlocked(2);
  await session.query('rollback');
  session.release();
  expect(await paying).toMatchObject({ outcome: 'paid' });
  expect((await step).state).not.toBe('done');
  await finishThaws(1);
  expect((await shop.orders.timeline(second.id)).map(({ type }) => type)).toEqual([
    'order.placed',
    'order.thawed',
  ]);
});

/** Waits until `count` sessions wait for a lock. */
async function waitForBlocked(count: number): Promise<void> {
  await waitFor(
    async () => {
      const { rows } = await shop.database.query<{ blocked: number }>(`
        select count(*) as blocked from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'`);
      return rows[0]?.blocked === count;
    },
    { what: `${count} sessions to wait for a lock` },
  );
}

test('a freeze returns only when the expiry that is under way has ended', async () => {
  const order = await place(shop.orders);
  await makeDue(shop.database, [order]);
  const session = await shop.database.connect();
  await session.query('begin');
  await session.query('select from orders where id = $1 for no key update', [order.id]);
  const ended: string[] = [];
  const expiring = shop.orders.expire([order.id], 'test').then((answers) => {
    ended.push('expire');
    return answers;
  });
  await waitForBlocked(1);
  const freezing = freeze().then(() => ended.push('freeze'));
  await waitForBlocked(2);
  // An expiry that comes now stands behind the freeze.
  const later = await place(shop.orders);
  await makeDue(shop.database, [later]);
  const expiringLater = shop.another().orders.expire([later.id], 'test');
  await waitForBlocked(3);
  expect(ended).toEqual([]);
  await session.query('rollback');
  session.release();
  expect((await expiring).get(order.id)).toMatchObject({ answer: 'cancelled' });
  await freezing;
  expect(ended).toEqual(['expire', 'freeze']);
  expect((await expiringLater).get(later.id)).toEqual({ answer: 'frozen' });
});

test('a freeze is thawed once, and an unknown one not at all', async () => {
  const { id } = await freeze();
  const answers = await Promise.all([shop.orders.thaw(id, 'test'), shop.another().orders.thaw(id, 'test')]);
  expect(answers.filter((answer) => answer !== undefined).length).toBe(1);
  expect(await shop.orders.thaw('01890000-0000-7000-8000-000000000000', 'test')).toBeUndefined();
  expect(await nextStep(10)).toEqual({ state: 'done', freezeId: id });
  expect(await shop.orders.thawStep(10)).toEqual({ state: 'idle' });
});

test(
  'freezes, thaws, expiries and sweeps at once cancel nothing that stood frozen',
  { timeout: 60_000 },
  async () => {
    const workers = [shop.another(), shop.another()];
    const orders = (
      await Promise.all(
        Array.from({ length: 200 }, (_, n) =>
          shop.orders.checkout(aCheckout({ paymentWindowMs: 200 + n * 4 })),
        ),
      )
    ).flatMap((answer) => (answer.outcome === 'placed' ? [answer.order] : []));
    const ids = orders.map(({ id }) => id);
    const isOver = async () =>
      (await shop.orders.list({ status: 'pending_payment', limit: 1 })).orders.length === 0;
    const over = new AbortController();
    const working = workers.flatMap(({ orders: worker }) => [
      (async () => {
        while (!over.signal.aborted)
          await worker.expire(ids.slice(Math.floor(Math.random() * ids.length)), 'test');
      })(),
      (async () => {
        while (!over.signal.aborted) await worker.sweep(5, 'test');
      })(),
      (async () => {
        while (!over.signal.aborted) await worker.thawStep(20);
      })(),
    ]);
    for (let round = 0; round < 12; round += 1) {
      const { id } = await freeze();
      await shop.database.query('select pg_sleep(0.05)');
      await thaw(id);
      await waitFor(async () => (await shop.orders.activeFreeze()) === undefined, {
        what: 'the thaw to be done',
        timeoutMs: 20_000,
      });
    }
    await waitFor(isOver, { what: 'all to be cancelled', timeoutMs: 20_000 });
    over.abort();
    await Promise.all(working);
    const { rows } = await shop.database.query(`
    select o.id, o.cancelled_at, f.frozen_at, f.thawing_at
    from orders o join freezes f on o.cancelled_at > f.frozen_at and o.cancelled_at < f.thawing_at`);
    expect(rows).toEqual([]);
    // Each deadline was moved by the frozen time that lay before it, to the millisecond.
    const { rows: wrong } = await shop.database.query(`
    select o.id from orders o
    cross join lateral (
      select coalesce(sum((e.data ->> 'frozenMs')::bigint), 0) as ms
      from events e where e.order_id = o.id and e.type = 'order.thawed'
    ) as told
    cross join lateral (
      select coalesce(sum(round(extract(epoch from f.thawing_at - greatest(f.frozen_at, o.created_at)) * 1000)), 0) as ms
      from freezes f where f.thawing_at > o.created_at and f.frozen_at < o.cancelled_at
    ) as stood
    where told.ms <> stood.ms`);
    expect(wrong).toEqual([]);
  },
);
