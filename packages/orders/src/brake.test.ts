import { afterEach, describe, expect, test } from 'vitest';
import type { BrakeLimits, Freeze, Orders } from './index.ts';
import {
  aPayment,
  deadlineOf,
  expectConsistent,
  letPass,
  openTestOrders,
  place,
  placeMany,
  placeOverdue,
  type TestOrders,
  type TestProcess,
} from './testing.ts';

const minute = 60_000;
const hour = 60 * minute;

let shop: TestOrders;
afterEach(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

/** A shop with so many orders overdue by 10 minutes and others that are not due. Each test has its own. */
async function openShop(
  orders: { overdue?: number; young?: number },
  brake?: BrakeLimits,
): Promise<string[]> {
  shop = await openTestOrders(brake === undefined ? {} : { brake });
  await shop.orders.setStock('a', 1_000_000);
  await placeOverdue(shop.database, orders.young ?? 0, -hour);
  const overdue = await placeOverdue(shop.database, orders.overdue ?? 0, 10 * minute);
  await shop.database.query('analyze orders');
  return overdue;
}

async function countBy(status: string): Promise<number> {
  const { rows } = await shop.database.query<{ count: number }>(
    'select count(*) as count from orders where status = $1',
    [status],
  );
  return rows[0]?.count ?? 0;
}

async function brakes(): Promise<Freeze[]> {
  return (await shop.orders.freezes(100)).filter(({ kind }) => kind === 'brake');
}

/** Sweeps until nothing is left; how many were cancelled. */
async function drain({ orders }: TestProcess = shop): Promise<number> {
  let count = 0;
  for (;;) {
    const { size } = await orders.sweep(500, 'test');
    if (size === 0) return count;
    count += size;
  }
}

/** Goes on until every thaw is done; the orders that were moved. */
async function finishThaws(limit = 1000): Promise<string[]> {
  const moved: string[] = [];
  for (;;) {
    const step = await shop.orders.thawStep(limit);
    if (step.state === 'idle') return moved;
    if (step.state === 'moved') moved.push(...step.deadlines.map(({ orderId }) => orderId));
  }
}

const resume = (extendMs: number | null = null, orders: Orders = shop.orders) =>
  orders.resume({ actor: 'cli:anna', extendMs });

async function trip(): Promise<Freeze> {
  expect(await shop.orders.sweep(500, 'test')).toEqual(new Map());
  const [brake] = await brakes();
  if (brake?.state !== 'frozen') throw new Error('the brake is not on');
  return brake;
}

describe('the brake goes on above both bounds only', () => {
  test.each([
    { name: 'at 1,000 orders', overdue: 1000, young: 0, on: false },
    { name: 'at 1,001', overdue: 1001, young: 0, on: true },
    { name: 'at just 5 % of the pending', overdue: 1100, young: 20_900, on: false },
    { name: 'above 5 %', overdue: 1101, young: 20_900, on: true },
    { name: 'with many of few', overdue: 900, young: 0, on: false },
    { name: 'with few of many', overdue: 1200, young: 30_000, on: false },
  ])('$name: $on', async ({ overdue, young, on }) => {
    await openShop({ overdue, young });
    const swept = await shop.orders.sweep(500, 'test');
    expect(swept.size).toBe(on ? 0 : 500);
    expect(await countBy('cancelled')).toBe(on ? 0 : 500);
    expect((await brakes()).length).toBe(on ? 1 : 0);
    if (!on) expect(await drain()).toBe(overdue - 500);
  });

  test('orders that are overdue by less than 5 minutes are no backlog', async () => {
    await openShop({ overdue: 500 });
    await placeOverdue(shop.database, 2000, 5 * minute - 10_000);
    expect(await drain()).toBe(2500);
    expect(await brakes()).toEqual([]);
  });

  test('its bounds are settings, and 0 orders switch it off', async () => {
    await openShop({ overdue: 30, young: 70 }, { orders: 10, share: 0.25 });
    const off = shop.another({ brake: { orders: 0, share: 0 } });
    expect((await shop.orders.sweep(500, 'test')).size).toBe(0);
    expect(await brakes()).toMatchObject([
      {
        state: 'frozen',
        actor: 'test',
        reason: '30 of 100 pending orders were overdue by 5 minutes or more',
      },
    ]);
    // Switched off where it is on already: it holds until somebody releases it.
    expect((await off.orders.sweep(500, 'test')).size).toBe(0);
    await resume();
    await placeOverdue(shop.database, 100, 10 * minute);
    expect((await off.orders.sweep(500, 'test')).size).toBe(130);
    expect((await brakes()).map(({ state }) => state)).toEqual(['done']);
  });
});

describe('a backlog is found before the first of it is cancelled', () => {
  test('by fired jobs', async () => {
    const overdue = await openShop({ overdue: 1200, young: 100 });
    const answers = await shop.orders.expire(overdue.slice(600, 700), 'test');
    expect(new Set([...answers.values()].map(({ answer }) => answer))).toEqual(new Set(['frozen']));
    expect(await countBy('cancelled')).toBe(0);
    expect((await brakes()).length).toBe(1);
  });

  test('by the job of an order that is not late itself', async () => {
    await openShop({ overdue: 1200 });
    const [fresh = ''] = await placeOverdue(shop.database, 1, 5);
    expect((await shop.orders.expire([fresh], 'test')).get(fresh)).toEqual({ answer: 'frozen' });
    expect(await countBy('cancelled')).toBe(0);
  });

  test('but not by a job that has nothing to cancel', async () => {
    await openShop({ overdue: 1200 });
    const order = await place(shop.orders);
    expect((await shop.orders.expire([order.id], 'test')).get(order.id)).toMatchObject({ answer: 'not_due' });
    expect(await brakes()).toEqual([]);
  });

  test('by 8 processes that race for it: nothing is cancelled, and one brake is on', async () => {
    const overdue = await openShop({ overdue: 3000, young: 1000 });
    const processes = Array.from({ length: 8 }, () => shop.another({ max: 3 }));
    const found = await Promise.all(
      processes.flatMap(({ orders }, n) => [
        orders.sweep(500, 'test'),
        orders.expire(overdue.slice(n * 300, n * 300 + 400), 'test'),
        orders.expire(overdue.toReversed().slice(n * 100, n * 100 + 400), 'test'),
      ]),
    );
    const answers = found.flatMap((some) => some.values().toArray()).map(({ answer }) => answer);
    expect(answers.length).toBe(8 * 800);
    expect(new Set(answers)).toEqual(new Set(['frozen']));
    expect(await countBy('cancelled')).toBe(0);
    expect((await brakes()).length).toBe(1);
  });

  test('at the cost of a look into the index that ends one row above the bound', async () => {
    await openShop({ overdue: 5000, young: 5000 });
    const single = shop.another({ max: 1 });
    await single.orders.sweep(1, 'test');
    await resume();
    await shop.database.query(`delete from freezes`);
    const { rows } = await single.database.query<{ 'QUERY PLAN': string }>(
      `explain (analyze, timing off, costs off) execute expire_sweep (500, 'test', 1000, false)`,
    );
    const look = rows.find((row) => row['QUERY PLAN'].includes('Index Only Scan Backward using orders_due'));
    expect(look?.['QUERY PLAN']).toMatch(/actual rows=1001(\.00)? loops=1/);
  });
});

describe('while the brake is on', () => {
  test('nothing is cancelled for time, what falls due later neither; money and people are served', async () => {
    const [first = '', second = '', third = ''] = await openShop({ overdue: 1200 });
    const fresh = await place(shop.orders, { paymentWindowMs: 1000 });
    const brake = await trip();
    await shop.database.query('select pg_sleep_until($1)', [fresh.expireAt]);
    expect((await shop.orders.expire([fresh.id, first], 'test')).values().toArray()).toEqual([
      { answer: 'frozen' },
      { answer: 'frozen' },
    ]);
    expect(await shop.orders.sweep(500, 'test')).toEqual(new Map());

    const order = await shop.orders.find(first);
    if (order === undefined) throw new Error('there is no such order');
    expect(await shop.orders.pay(aPayment(order))).toMatchObject({ outcome: 'paid' });
    expect(await shop.orders.cancel({ orderId: second, reason: 'customer', actor: 'test' })).toMatchObject({
      outcome: 'cancelled',
    });
    const deadlineAt = new Date(Date.now() + hour);
    expect(await shop.orders.extend({ orderId: third, to: { deadlineAt }, actor: 'test' })).toMatchObject({
      outcome: 'extended',
    });
    expect(await place(shop.orders)).toMatchObject({ status: 'pending_payment' });

    // 1,200, less the three, and the one that fell due meanwhile.
    expect(await shop.orders.activeBrake()).toMatchObject({ id: brake.id, state: 'frozen', heldCount: 1198 });
    expect(await shop.orders.activeFreeze()).toBeUndefined();
  });

  test('it is no freeze that could be thawed', async () => {
    await openShop({ overdue: 1200 });
    const { id } = await trip();
    expect(await shop.orders.thaw(id, 'test')).toBeUndefined();
    expect((await shop.orders.sweep(500, 'test')).size).toBe(0);
  });
});

describe('resume', () => {
  test('drains the backlog, which does not put the brake on again; a later one does', async () => {
    await openShop({ overdue: 3000, young: 500 });
    const { id } = await trip();
    expect(await resume()).toMatchObject({
      outcome: 'resumed',
      brake: { id, kind: 'brake', state: 'done', releasedBy: 'cli:anna', extendMs: null },
    });
    expect(await shop.orders.activeBrake()).toBeUndefined();
    expect(await drain()).toBe(3000);
    expect(await countBy('pending_payment')).toBe(500);
    expect(await resume()).toEqual({ outcome: 'not_held' });

    // What falls due after the release is not what it let go.
    await letPass(shop.database, 20 * minute);
    await placeOverdue(shop.database, 1200, 10 * minute);
    expect((await shop.orders.sweep(500, 'test')).size).toBe(0);
    expect((await brakes()).map(({ state }) => state)).toEqual(['frozen', 'done']);
    expect(await countBy('cancelled')).toBe(3000);
  });

  test('gives no time back for the brake', async () => {
    const overdue = await openShop({ overdue: 1200 });
    const young = await place(shop.orders);
    await trip();
    await resume();
    expect(await finishThaws()).toEqual([]);
    expect((await shop.orders.find(young.id))?.deadlineAt).toEqual(young.deadlineAt);
    expect((await shop.orders.timeline(overdue[0] ?? '')).map(({ type }) => type)).toEqual(['order.placed']);
  });

  test('with an extension moves every held order before anything is cancelled, and no other', async () => {
    const overdue = await openShop({ overdue: 1500 });
    const young = await place(shop.orders);
    const { id } = await trip();
    const answer = await resume(15 * minute);
    expect(answer).toMatchObject({
      outcome: 'resumed',
      brake: { id, state: 'thawing', extendMs: 15 * minute, doneAt: null },
    });
    // Again, as after an interruption: nothing changes.
    expect(await resume(hour)).toMatchObject({ outcome: 'resuming', brake: { id, extendMs: 15 * minute } });
    expect(await shop.orders.activeBrake()).toMatchObject({ id, state: 'thawing', heldCount: 1500 });
    expect(
      (await shop.orders.expire(overdue, 'test')).values().every(({ answer: a }) => a === 'frozen'),
    ).toBe(true);
    expect(await shop.orders.sweep(500, 'test')).toEqual(new Map());

    // A page, then a new process goes on: as after a crash.
    const page = await shop.orders.thawStep(400);
    expect(page).toMatchObject({ state: 'moved' });
    expect((await shop.orders.activeBrake())?.heldCount).toBe(1100);
    expect(await shop.orders.sweep(500, 'test')).toEqual(new Map());
    const moved = await finishThaws();
    expect(moved.length).toBe(1100);

    const deadlineAt = new Date(
      ('brake' in answer ? (answer.brake.thawingAt?.getTime() ?? 0) : 0) + 15 * minute,
    );
    const { rows } = await shop.database.query(
      `select deadline_at, expire_at, check_at, count(*) as count from orders where id <> $1 group by 1, 2, 3`,
      [young.id],
    );
    expect(rows).toEqual([
      { deadline_at: deadlineAt, expire_at: deadlineAt, check_at: deadlineAt, count: 1500 },
    ]);
    expect((await shop.orders.find(young.id))?.deadlineAt).toEqual(young.deadlineAt);
    expect((await shop.orders.timeline(overdue[0] ?? '')).at(-1)).toMatchObject({
      type: 'order.extended',
      actor: 'cli:anna',
      data: { brakeId: id, from: expect.any(String), to: deadlineAt.toISOString() },
    });
    expect(
      (await shop.orders.expire(overdue, 'test')).values().every(({ answer: a }) => a === 'not_due'),
    ).toBe(true);
    expect((await brakes()).map(({ state }) => state)).toEqual(['done']);
    expect(await countBy('cancelled')).toBe(0);
  });

  test('of several at once releases once', async () => {
    await openShop({ overdue: 1200 });
    await trip();
    const others = Array.from({ length: 4 }, () => shop.another({ max: 1 }).orders);
    const answers = await Promise.all(others.map((orders) => resume(null, orders)));
    expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual([
      'not_held',
      'not_held',
      'not_held',
      'resumed',
    ]);
  });

  test('while an extension is being granted, a new backlog puts a new brake on', async () => {
    await openShop({ overdue: 1200 });
    await trip();
    await resume(minute);
    // The workers were down for 20 minutes in the middle of it.
    await letPass(shop.database, 20 * minute);
    await placeOverdue(shop.database, 1200, 10 * minute);
    expect((await shop.orders.sweep(500, 'test')).size).toBe(0);
    expect((await brakes()).map(({ state }) => state)).toEqual(['frozen', 'thawing']);
    expect(await shop.orders.activeBrake()).toMatchObject({ state: 'frozen' });
    expect((await finishThaws()).length).toBe(1200);
    await resume();
    // Those that got a minute, 19 minutes ago, were a backlog of the second brake.
    expect(await drain()).toBe(2400);
  });
});

const deadlineMs = async (id: string) => (await shop.orders.find(id))?.deadlineAt?.getTime() ?? 0;
const freeze = () => shop.orders.freeze({ reason: 'the bank is down', actor: 'test' });
async function span(id: string): Promise<number> {
  const found = (await shop.orders.freezes(100)).find((each) => each.id === id);
  return (found?.thawingAt?.getTime() ?? 0) - (found?.frozenAt.getTime() ?? 0);
}

describe('a freeze and the brake at once', () => {
  test('what a freeze holds is no backlog, neither before nor in its thaw', async () => {
    await openShop({}, { orders: 100, share: 0.05 });
    const { id } = await freeze();
    await placeMany(shop.orders, 200);
    await letPass(shop.database, 20 * minute);
    expect(await shop.orders.sweep(500, 'test')).toEqual(new Map());
    await shop.orders.thaw(id, 'test');
    await letPass(shop.database, 1000);
    const [fresh = ''] = await placeOverdue(shop.database, 1, 5);
    await shop.database.query(`update orders set created_at = expire_at - interval '500 ms' where id = $1`, [
      fresh,
    ]);
    expect((await shop.orders.expire([fresh], 'test')).get(fresh)).toMatchObject({ answer: 'cancelled' });
    expect(await brakes()).toEqual([]);
    expect((await finishThaws(30)).length).toBe(200);
    // Each has what it had left when the clock stood still.
    expect(await shop.orders.sweep(500, 'test')).toEqual(new Map());
  });

  test('what the brake holds beside a freeze of some is not put off: released, it lapses', async () => {
    await openShop({ overdue: 3 });
    await shop.orders.freeze({ reason: 'test', actor: 'test', scope: { provider: 'bank' } });
    await shop.database.query(`
      insert into freezes (id, kind, reason, actor, frozen_at)
      values ('01890000-0000-7000-8000-0000000000aa', 'brake', 'test', 'test', clock_timestamp())`);
    expect(await shop.orders.sweep(10, 'test')).toEqual(new Map());
    expect(await shop.orders.resume({ actor: 'test', extendMs: null })).toMatchObject({ outcome: 'resumed' });
    expect((await shop.orders.sweep(10, 'test')).size).toBe(3);
  });

  test('a freeze within the brake is given back, the brake is not', async () => {
    await openShop({ overdue: 1200 });
    const young = await place(shop.orders, { paymentWindowMs: hour });
    await trip();
    await letPass(shop.database, 5 * minute);
    const { id } = await freeze();
    await letPass(shop.database, 7 * minute);
    await shop.orders.thaw(id, 'test');
    expect((await finishThaws()).length).toBe(1201);
    await letPass(shop.database, 3 * minute);
    const before = await deadlineMs(young.id);
    await resume();
    expect(await finishThaws()).toEqual([]);
    expect(await deadlineMs(young.id)).toBe(before);
    const order = await shop.orders.find(young.id);
    expect(before - (order?.createdAt.getTime() ?? 0)).toBe(hour + (await span(id)));
    expect(await drain()).toBe(1200);
  });

  test('a freeze that outlasts the release holds on, and counts on from the extension', async () => {
    const [overdue = ''] = await openShop({ overdue: 1200 });
    await trip();
    const { id } = await freeze();
    await letPass(shop.database, 10 * minute);
    const answer = await resume(15 * minute);
    expect((await finishThaws()).length).toBe(1200);
    const releasedAt = ('brake' in answer ? answer.brake.thawingAt?.getTime() : undefined) ?? 0;
    // What it stood frozen since it was overdue is less than the extension, which is from the release on.
    expect(await deadlineMs(overdue)).toBe(releasedAt + 15 * minute);
    await letPass(shop.database, hour);
    expect((await shop.orders.expire([overdue], 'test')).get(overdue)).toEqual({ answer: 'frozen' });
    const thawed = await shop.orders.thaw(id, 'test');
    await finishThaws();
    // An hour and some ms: from the release to the thaw.
    const stoodMs = (thawed?.thawingAt?.getTime() ?? 0) - (releasedAt - hour);
    expect(await deadlineMs(overdue)).toBe(releasedAt - hour + 15 * minute + stoodMs);
  });

  test('an extension takes nothing from an order that a freeze owes more', async () => {
    await openShop({ overdue: 1200 });
    await trip();
    const order = await place(shop.orders, { paymentWindowMs: 50 * minute });
    const { frozenAt } = await freeze();
    await letPass(shop.database, hour);
    const answer = await resume(15 * minute);
    await finishThaws();
    const releasedAt = ('brake' in answer ? answer.brake.thawingAt?.getTime() : undefined) ?? 0;
    const stoodMs = releasedAt - (frozenAt.getTime() - hour);
    expect(await deadlineMs(order.id)).toBe(deadlineOf(order).getTime() - hour + stoodMs);
  });
});

test('days that a thaw gives back are 24 hours long where summer time begins, too', async () => {
  await openShop({});
  const order = await place(shop.orders, { paymentWindowMs: 90 * 24 * hour });
  const { id } = await shop.orders.freeze({ reason: 'a long holiday', actor: 'test' });
  const { rows } = await shop.database.query<{ name: string }>('select current_database() as name');
  await shop.database.query(`alter database ${rows[0]?.name ?? ''} set timezone = 'America/New_York'`);
  await shop.database.query(`
    update freezes set frozen_at = frozen_at - interval '400 days';
    update orders set created_at = created_at - interval '400 days'`);
  const abroad = shop.another({ max: 1 });
  const thawed = await abroad.orders.thaw(id, 'test');
  for (;;) {
    const step = await abroad.orders.thawStep(10);
    if (step.state === 'done') break;
  }
  const [frozen] = await shop.orders.freezes(1);
  const stoodMs = (thawed?.thawingAt?.getTime() ?? 0) - (frozen?.frozenAt.getTime() ?? 0);
  expect((await shop.orders.find(order.id))?.deadlineAt?.getTime()).toBe(
    deadlineOf(order).getTime() + stoodMs,
  );
});

const pending = async () => (await shop.orders.list({ status: 'pending_payment', limit: 200 })).orders;

test(
  'outages, brakes, releases with and without an extension, fired jobs, sweeps and payments at once stay consistent',
  { timeout: 60_000 },
  async () => {
    await openShop({ young: 200 }, { orders: 50, share: 0.1 });
    const over = new AbortController();
    const workers = Array.from({ length: 3 }, () => shop.another({ max: 3 }));
    const forever = async (work: () => Promise<unknown>) => {
      while (!over.signal.aborted) await work();
    };
    const loops = workers.flatMap(({ orders }) => [
      forever(() => orders.sweep(40, 'test')),
      forever(async () =>
        orders.expire(
          (await pending()).map(({ id }) => id),
          'test',
        ),
      ),
      forever(() => orders.thawStep(25)),
    ]);
    const paying = forever(async () => {
      const [order] = await pending();
      if (order !== undefined) await shop.orders.pay(aPayment(order));
    });
    for (let round = 0; round < 10; round += 1) {
      await placeOverdue(shop.database, 150, 6 * minute);
      await expect
        .poll(() => shop.orders.activeBrake(), { timeout: 10_000 })
        .toMatchObject({ state: 'frozen' });
      expect(await resume(round % 2 === 0 ? 1000 : null)).toMatchObject({ outcome: 'resumed' });
      await expect.poll(() => shop.orders.activeBrake(), { timeout: 20_000 }).toBeUndefined();
      await expect.poll(async () => (await shop.orders.backlog()).overdueCount, { timeout: 10_000 }).toBe(0);
      // The next backlog falls due after this release.
      await letPass(shop.database, hour);
    }
    over.abort();
    await Promise.all([...loops, paying]);
    expect(await brakes()).toHaveLength(10);
  },
);
