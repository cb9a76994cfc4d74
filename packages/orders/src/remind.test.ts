import { waitFor } from '@lapse/devstack';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { RemindAnswer } from './index.ts';
import type { Order } from './order.ts';
import {
  aPayment,
  deadlineOf,
  expectConsistent,
  makeDue,
  onePolicy,
  openAttempt,
  openTestOrders,
  place,
  placeMany,
  type TestOrders,
} from './testing.ts';

const reminders = [40_000, 20_000];
const policies = onePolicy({ reminders, graceMs: 30_000 });

let shop: TestOrders;
beforeEach(async () => {
  shop = await openTestOrders({ policies, brake: { orders: 2, share: 0 } });
  await shop.orders.setStock('a', 100_000);
});
afterEach(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const earlier = (...columns: string[]): string =>
  columns.map((column) => `${column} = ${column} - $1 * interval '1 ms'`).join(', ');

/** Moves orders and freezes into the past. Reminders that were written stay where they are. */
async function letPass(ms: number): Promise<void> {
  await shop.database.query(
    `update orders set ${earlier('created_at', 'deadline_at', 'expire_at', 'check_at', 'thawed_through', 'remind_at')}`,
    [ms],
  );
  await shop.database.query(`update freezes set ${earlier('frozen_at', 'thawing_at')}`, [ms]);
}

const remind = async ({ id }: { id: string }): Promise<RemindAnswer | undefined> =>
  (await shop.orders.remind([id], 'test')).get(id);

const sweep = async (limit = 100): Promise<string[]> =>
  [...(await shop.orders.sweepReminders(limit, 'test'))].flatMap(([id, { answer }]) =>
    answer === 'reminded' ? [id] : [],
  );

/** How long before its deadline the next reminder of an order is due, ms. */
async function nextBefore({ id }: Order): Promise<number | null> {
  const order = await shop.orders.find(id);
  if (order === undefined || order.remindAt === null) return null;
  return deadlineOf(order).getTime() - order.remindAt.getTime();
}

/** How long before the deadline the reminders were that an order has had. */
async function had({ id }: Order): Promise<unknown[]> {
  const events = await shop.orders.timeline(id);
  return events.filter(({ type }) => type === 'order.payment_reminder').map(({ data }) => data['beforeMs']);
}

async function finishThaws(): Promise<Date | null | undefined> {
  let remindAt: Date | null | undefined;
  for (;;) {
    const step = await shop.orders.thawStep(1000);
    if (step.state === 'idle') return remindAt;
    if (step.state === 'moved') remindAt ??= step.deadlines[0]?.remindAt;
  }
}

describe('a checkout', () => {
  test('says when the first reminder is due, as the row does', async () => {
    const order = await place(shop.orders);
    expect(order.remindAt).toEqual(new Date(deadlineOf(order).getTime() - 40_000));
    expect(await shop.orders.find(order.id)).toMatchObject({ remindAt: order.remindAt });
  });

  test.each([
    [40_001, 40_000],
    [40_000, 20_000],
    [20_000, null],
  ])('with %i ms to pay has the first reminder %s ms before its deadline', async (paymentWindowMs, ms) => {
    const order = await place(shop.orders, { paymentWindowMs });
    expect(await nextBefore(order)).toBe(ms);
    expect(order.remindAt === null).toBe(ms === null);
  });

  test('without a deadline has none, unless it says how long the customer has', async () => {
    const { orders } = shop.another({ policies: onePolicy({ reminders, windowMs: null }) });
    const patient = await place(orders, { paymentWindowMs: undefined });
    expect(patient).toMatchObject({ deadlineAt: null, remindAt: null });
    expect(await remind(patient)).toEqual({ answer: 'none' });
    expect(await nextBefore(await place(orders))).toBe(40_000);
  });

  test('of a policy without reminders writes none', async () => {
    const { orders } = shop.another({ policies: onePolicy({}) });
    const order = await place(orders);
    const { rows } = await shop.database.query('select reminders, remind_at from orders where id = $1', [
      order.id,
    ]);
    expect(rows).toEqual([{ reminders: null, remind_at: null }]);
  });
});

describe('a reminder', () => {
  test('is written at its time and not before, then comes the next, then none', async () => {
    const order = await place(shop.orders);
    const early = await remind(order);
    expect(early).toMatchObject({ answer: 'not_due' });
    expect(early?.answer === 'not_due' && early.remainingMs).toSatisfy((ms) => ms > 15_000 && ms <= 20_000);
    await letPass(20_000);
    const first = await remind(order);
    expect(first).toMatchObject({ answer: 'reminded' });
    expect(first?.answer === 'reminded' && first.nextMs).toSatisfy((ms) => ms > 15_000 && ms <= 20_000);
    const { deadlineAt } = (await shop.orders.find(order.id)) ?? order;
    expect((await shop.orders.timeline(order.id)).at(-1)).toMatchObject({
      type: 'order.payment_reminder',
      actor: 'test',
      data: { deadlineAt: deadlineAt?.toISOString(), beforeMs: 40_000 },
    });
    expect(await remind(order)).toMatchObject({ answer: 'not_due' });
    await letPass(20_000);
    expect(await remind(order)).toEqual({ answer: 'reminded', nextMs: null });
    expect(await remind(order)).toEqual({ answer: 'none' });
    expect(await had(order)).toEqual(reminders);
  });

  test('that was missed together with others is one, the last', async () => {
    const order = await place(shop.orders);
    await letPass(45_000);
    expect(await remind(order)).toEqual({ answer: 'reminded', nextMs: null });
    expect(await had(order)).toEqual([20_000]);
  });

  test('is not written when the order is paid, cancelled, over or unknown', async () => {
    const [paid, cancelled, over] = [
      await place(shop.orders),
      await place(shop.orders),
      await place(shop.orders),
    ];
    await shop.orders.pay(aPayment(paid));
    await shop.orders.cancel({ orderId: cancelled.id, reason: 'customer', actor: 'test' });
    // In its grace: it may still be paid, and its customer was not told of that.
    await letPass(60_000);
    const unknown = { id: '01890000-0000-7000-8000-000000000000' };
    for (const order of [paid, cancelled, over]) expect(await remind(order)).toEqual({ answer: 'none' });
    expect(await remind(unknown)).toBeUndefined();
    expect(await sweep()).toEqual([]);
    for (const order of [paid, cancelled, over]) expect(await had(order)).toEqual([]);
  });

  test('is not written while providers are asked whether the order was paid', async () => {
    const order = await place(shop.orders);
    await openAttempt(shop.orders, order.id);
    await makeDue(shop.database, [order]);
    const answers = await shop.orders.expire([order.id], 'test');
    expect(answers.get(order.id)).toMatchObject({ answer: 'closing' });
    expect(await remind(order)).toEqual({ answer: 'none' });
    expect(await had(order)).toEqual([]);
  });

  test('of an order that somebody has in hand is looked at again, and nobody waits', async () => {
    const [held, other] = [await place(shop.orders), await place(shop.orders)];
    await letPass(20_000);
    const session = await shop.database.connect();
    await session.query('begin');
    await session.query(`select from orders where id = '${held.id}' for update`);
    const answers = await shop.orders.remind([held.id, other.id], 'test');
    expect(answers.get(held.id)).toEqual({ answer: 'not_due', remainingMs: 1000 });
    expect(answers.get(other.id)).toMatchObject({ answer: 'reminded' });
    expect(await sweep()).toEqual([]);
    await session.query('rollback');
    session.release();
    expect(await sweep()).toEqual([held.id]);
  });
});

describe('a sweep', () => {
  test('writes what is due, the longest waiting first, and leaves alone what is not', async () => {
    const [first, second] = [await place(shop.orders), await place(shop.orders)];
    await letPass(20_000);
    const young = await place(shop.orders);
    expect(await sweep(1)).toEqual([first.id]);
    expect(await sweep()).toEqual([second.id]);
    expect(await sweep()).toEqual([]);
    expect(await had(young)).toEqual([]);
  });

  test('is done with what is over, and does not see it again', async () => {
    await place(shop.orders);
    await letPass(60_000);
    expect((await shop.orders.sweepReminders(100, 'test')).size).toBe(1);
    expect((await shop.orders.sweepReminders(100, 'test')).size).toBe(0);
  });
});

describe('an extension', () => {
  test('moves the reminder, and repeats one that lies ahead again', async () => {
    const order = await place(shop.orders);
    await letPass(20_000);
    await remind(order);
    const answer = await shop.orders.extend({ orderId: order.id, to: { byMs: 60_000 }, actor: 'test' });
    expect(answer).toMatchObject({ outcome: 'extended' });
    expect(await nextBefore(order)).toBe(40_000);
    expect(await remind(order)).toMatchObject({ answer: 'not_due' });
    await letPass(61_000);
    expect(await remind(order)).toMatchObject({ answer: 'reminded' });
    expect(await had(order)).toEqual([40_000, 40_000]);
  });

  test('brings a reminder that the window was too short for, and skips one that it is too short for', async () => {
    const order = await place(shop.orders, { paymentWindowMs: 10_000 });
    expect(order.remindAt).toBeNull();
    const by = (byMs: number) => shop.orders.extend({ orderId: order.id, to: { byMs }, actor: 'test' });
    await by(15_000);
    expect(await nextBefore(order)).toBe(20_000);
    await by(60_000);
    expect(await nextBefore(order)).toBe(40_000);
  });
});

const freeze = (scope = {}) => shop.orders.freeze({ reason: 'it is down', actor: 'test', scope });

describe('a freeze', () => {
  test('holds reminders, and its thaw moves them with the deadlines', async () => {
    const order = await place(shop.orders);
    const { id } = await freeze();
    await letPass(30_000);
    expect(await remind(order)).toEqual({ answer: 'none' });
    expect(await sweep()).toEqual([]);
    await shop.orders.thaw(id, 'test');
    // Until the thaw has moved it, too.
    expect(await remind(order)).toEqual({ answer: 'none' });
    const remindAt = await finishThaws();
    const moved = await shop.orders.find(order.id);
    expect(moved?.remindAt).toEqual(remindAt);
    expect(await nextBefore(order)).toBe(40_000);
    expect(await remind(order)).toMatchObject({ answer: 'not_due' });
    await letPass(20_000);
    expect(await sweep()).toEqual([order.id]);
  });

  test('gives back no reminder that was sent before it', async () => {
    const order = await place(shop.orders);
    await letPass(40_000);
    expect(await remind(order)).toEqual({ answer: 'reminded', nextMs: null });
    const { id } = await freeze();
    await shop.orders.thaw(id, 'test');
    await finishThaws();
    expect(await nextBefore(order)).toBeNull();
  });

  test('of some orders leaves the others their reminders', async () => {
    const frozen = await place(shop.orders, { channel: 'web' });
    const other = await place(shop.orders, { channel: 'app' });
    await freeze({ channel: 'web' });
    await letPass(20_000);
    expect(await remind(frozen)).toEqual({ answer: 'none' });
    expect(await sweep()).toEqual([other.id]);
  });
});

test('after a brake the reminders lie before the deadlines that somebody granted', async () => {
  const orders = await placeMany(shop.orders, 3);
  const first = orders[0];
  if (first === undefined) throw new Error('nothing was placed');
  await makeDue(shop.database, orders, 600_000);
  await shop.orders.sweep(100, 'test');
  expect(await shop.orders.activeBrake()).toBeDefined();
  expect(await remind(first)).toEqual({ answer: 'none' });
  await shop.orders.resume({ actor: 'test', extendMs: 30_000 });
  await finishThaws();
  expect(await nextBefore(first)).toBe(20_000);
  expect(await sweep()).toEqual([]);
});

test('of many at once each is written once, by jobs and sweeps of several workers, and none after its end', async () => {
  const orders = await placeMany(shop.orders, 500);
  await letPass(20_000);
  const workers = [shop.another().orders, shop.another().orders];
  const ids = orders.map(({ id }) => id);
  const reminded: string[] = [];
  const keep = (answers: ReadonlyMap<string, RemindAnswer>): void => {
    for (const [id, { answer }] of answers) if (answer === 'reminded') reminded.push(id);
  };
  const paying = Promise.all(
    orders.filter((_, n) => n % 3 === 0).map((one) => shop.orders.pay(aPayment(one))),
  );
  await Promise.all(
    workers.flatMap((worker, n) =>
      Array.from({ length: 10 }, async (_, round) => {
        const start = (round * 50 + n * 25) % 500;
        keep(await worker.remind(ids.slice(start, start + 100), 'worker'));
        keep(await worker.sweepReminders(40, 'sweeper'));
      }),
    ),
  );
  await paying;
  await waitFor(
    async () => {
      const answers = await shop.orders.sweepReminders(500, 'sweeper');
      keep(answers);
      return answers.size === 0;
    },
    { what: 'the sweep to find nothing more' },
  );
  expect(new Set(reminded).size).toBe(reminded.length);
  const { rows } = await shop.database.query<{ count: number }>(
    `select count(*) from orders o
     where status = 'pending_payment'
       and not exists (select from events e where e.order_id = o.id and e.type = 'order.payment_reminder')`,
  );
  expect(rows[0]?.count).toBe(0);
});
