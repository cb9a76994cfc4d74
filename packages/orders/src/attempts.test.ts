import { waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  aPayment,
  eventTypes,
  expectConsistent,
  makeDue,
  openAttempt,
  openTestOrders,
  place,
  placeMany,
  waitingCount,
  type TestOrders,
} from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', 10_000);
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const wish = (orderId: string, provider = 'wallet') =>
  ({ orderId, provider, handOffAs: 'url', returnUrl: null, actor: 'test' }) as const;
const types = (orderId: string) => eventTypes(shop.orders, orderId);
const close = (attemptId: string) =>
  shop.orders.recordVerdict({ attemptId, verdict: 'closed', actor: 'test' });

async function fence(orderId: string): Promise<{ closing: boolean; count: number; checkInMs: number }> {
  const { rows } = await shop.database.query<{ closing: boolean; count: number; checkInMs: number }>(
    `select closing_at is not null as closing, open_attempt_count as count,
       (extract(epoch from check_at - clock_timestamp()) * 1000)::float8 as "checkInMs"
     from orders where id = $1`,
    [orderId],
  );
  if (rows[0] === undefined) throw new Error('there is no such order');
  return rows[0];
}

async function askAt(attemptId: string): Promise<Date | null> {
  const { rows } = await shop.database.query<{ ask_at: Date | null }>(
    'select ask_at from payment_attempts where id = $1',
    [attemptId],
  );
  return rows[0]?.ask_at ?? null;
}

describe('opening', () => {
  test('an attempt is written before its provider is called, and then kept with what the customer needs', async () => {
    const order = await place(shop.orders);
    const begun = await shop.orders.beginAttempt(wish(order.id));
    expect(begun).toMatchObject({
      outcome: 'opening',
      attempt: { state: 'opening', provider: 'wallet', providerAttemptId: null, payBy: order.deadlineAt },
    });
    expect(await fence(order.id)).toMatchObject({ count: 1, closing: false });
    const { id } = begun.outcome === 'opening' ? begun.attempt : { id: '' };
    const handOff = { url: 'https://pay.example/1' };
    expect(
      await shop.orders.recordOpened({ attemptId: id, providerAttemptId: 'cs_1', handOff }),
    ).toMatchObject({ state: 'open', providerAttemptId: 'cs_1', handOff });
    expect(await types(order.id)).toEqual(['order.placed', 'attempt.opened']);
  });

  test('an order has one open attempt for each provider: the same wish leads to the same one', async () => {
    const order = await place(shop.orders);
    const attempt = await openAttempt(shop.orders, order.id);
    expect(await shop.orders.beginAttempt(wish(order.id))).toMatchObject({ outcome: 'open', attempt });
    await openAttempt(shop.orders, order.id, 'bank');
    expect(await fence(order.id)).toMatchObject({ count: 2 });
    await close(attempt.id);
    const next = await openAttempt(shop.orders, order.id);
    expect(next.id).not.toBe(attempt.id);
    expect((await shop.orders.attempts(order.id)).map(({ state }) => state)).toEqual([
      'closed',
      'open',
      'open',
    ]);
  });

  test('twins in several processes begin one attempt', async () => {
    const processes = [shop.orders, shop.another().orders, shop.another().orders];
    for (const order of await placeMany(shop.orders, 20)) {
      const begun = await Promise.all(processes.map((orders) => orders.beginAttempt(wish(order.id))));
      expect(new Set(begun.map((one) => ('attempt' in one ? one.attempt.id : one.outcome))).size).toBe(1);
      expect(await fence(order.id)).toMatchObject({ count: 1 });
    }
  });

  test('of a settled, a due, a fenced, and an unknown order none is opened', async () => {
    const [paid, due, fenced] = await placeMany(shop.orders, 3);
    if (paid === undefined || due === undefined || fenced === undefined) throw new Error('not placed');
    await shop.orders.pay(aPayment(paid));
    await makeDue(shop.database, [due]);
    await openAttempt(shop.orders, fenced.id, 'bank');
    await makeDue(shop.database, [fenced]);
    await shop.orders.expire([fenced.id], 'test');
    const outcome = async (orderId: string) => (await shop.orders.beginAttempt(wish(orderId))).outcome;
    expect(await outcome(paid.id)).toBe('not_pending');
    expect(await outcome(due.id)).toBe('order_closing');
    expect(await outcome(fenced.id)).toBe('order_closing');
    expect(await outcome('01890000-0000-7000-8000-000000000000')).toBe('order_not_found');
  });

  test('one that ended while its provider was asked stays ended', async () => {
    const order = await place(shop.orders);
    const begun = await shop.orders.beginAttempt(wish(order.id));
    const { id } = 'attempt' in begun ? begun.attempt : { id: '' };
    await close(id);
    expect(
      await shop.orders.recordOpened({ attemptId: id, providerAttemptId: `late ${id}`, handOff: {} }),
    ).toMatchObject({ state: 'closed' });
  });
});

async function aFenced(channel = 'default'): Promise<{ orderId: string; attemptId: string }> {
  const order = await place(shop.orders, { channel });
  const attempt = await openAttempt(shop.orders, order.id);
  await makeDue(shop.database, [order]);
  const answers = await shop.orders.expire([order.id], 'test');
  expect(answers.get(order.id)).toEqual({ answer: 'closing', isOurs: true });
  return { orderId: order.id, attemptId: attempt.id };
}

describe('a due order with an open attempt', () => {
  test('is fenced and not cancelled, and one at a time asks its providers', async () => {
    const { orderId } = await aFenced();
    expect(await shop.orders.find(orderId)).toMatchObject({ status: 'pending_payment' });
    expect((await shop.orders.expire([orderId], 'test')).get(orderId)).toEqual({
      answer: 'closing',
      isOurs: false,
    });
    expect((await shop.orders.sweep(1000, 'test')).has(orderId)).toBe(false);
    expect(await fence(orderId)).toMatchObject({ closing: true });
    expect(await types(orderId)).toEqual(['order.placed', 'attempt.opened', 'order.closing']);
    expect(await shop.orders.extend({ orderId, to: { byMs: 60_000 }, actor: 'test' })).toMatchObject({
      outcome: 'order_closing',
    });
  });

  test('whose asker died is found again by a sweep', async () => {
    const { orderId } = await aFenced();
    await shop.database.query(`update orders set check_at = clock_timestamp() where id = $1`, [orderId]);
    expect((await shop.orders.sweep(1000, 'test')).get(orderId)).toEqual({ answer: 'closing', isOurs: true });
    // The fence stands since the first time, and is told of once.
    expect((await types(orderId)).filter((type) => type === 'order.closing').length).toBe(1);
  });

  test('is cancelled when its last attempt is closed', async () => {
    const { orderId, attemptId } = await aFenced();
    expect(await close(attemptId)).toEqual({ outcome: 'recorded', orderId, isDue: true });
    expect((await shop.orders.expire([orderId], 'test')).get(orderId)).toMatchObject({ answer: 'cancelled' });
    expect(await types(orderId)).toEqual([
      'order.placed',
      'attempt.opened',
      'order.closing',
      'attempt.closed',
      'order.cancelled',
    ]);
    expect(await close(attemptId)).toEqual({ outcome: 'had_ended' });
  });

  test('is cancelled by the next sweep where whoever closed its attempt died', async () => {
    const { orderId, attemptId } = await aFenced();
    await close(attemptId);
    expect((await shop.orders.sweep(1000, 'test')).get(orderId)).toMatchObject({ answer: 'cancelled' });
  });

  test.each([
    ['alone', 0],
    ['behind others that were there at once', 3],
  ])('is cancelled by an expiry that waited, %s, while its last attempt was closed', async (_, others) => {
    const before = await placeMany(shop.orders, others);
    if (others > 0) await makeDue(shop.database, before);
    const { orderId, attemptId } = await aFenced();
    const session = await shop.database.connect();
    await session.query('begin');
    await session.query('select from orders where id = $1 for update', [orderId]);
    const expiry = shop.orders.expire([...before.map(({ id }) => id), orderId], 'test');
    await waitFor(async () => (await waitingCount(shop.database)) > 0, { what: 'expiry to wait' });
    await session.query(
      `update payment_attempts set state = 'closed', ended_at = clock_timestamp(), ask_at = null where id = $1`,
      [attemptId],
    );
    await session.query('update orders set open_attempt_count = 0 where id = $1', [orderId]);
    await session.query(
      `insert into events (order_id, type, actor, at, data)
       values ($1, 'attempt.closed', 'test', clock_timestamp(), jsonb_build_object('attemptId', $2::uuid))`,
      [orderId, attemptId],
    );
    await session.query('commit');
    session.release();
    expect((await expiry).get(orderId)).toMatchObject({ answer: 'cancelled' });
    const [attempt] = await shop.orders.attempts(orderId);
    const { cancelledAt } = (await shop.orders.find(orderId)) ?? {};
    expect(cancelledAt?.getTime()).toBeGreaterThanOrEqual(attempt?.endedAt?.getTime() ?? Infinity);
  });

  test('with two attempts waits for both', async () => {
    const order = await place(shop.orders);
    const one = await openAttempt(shop.orders, order.id);
    const two = await openAttempt(shop.orders, order.id, 'bank');
    await makeDue(shop.database, [order]);
    await shop.orders.expire([order.id], 'test');
    expect(await close(one.id)).toMatchObject({ isDue: false });
    expect((await shop.orders.expire([order.id], 'test')).get(order.id)).toMatchObject({ answer: 'closing' });
    expect(await close(two.id)).toMatchObject({ isDue: true });
  });

  test.each(['unknown', 'processing'] as const)(
    'of which the provider says %s is held, and asked again later',
    async (verdict) => {
      const { orderId, attemptId } = await aFenced();
      expect(
        await shop.orders.recordVerdict({ attemptId, verdict, reason: 'it says so', actor: 'test' }),
      ).toEqual({ outcome: 'recorded', orderId, isDue: false });
      const first = await fence(orderId);
      expect(first.closing).toBe(true);
      expect(first.checkInMs).toBeGreaterThan(0);
      for (let n = 0; n < 12; n += 1) await shop.orders.recordVerdict({ attemptId, verdict, actor: 'test' });
      const last = await fence(orderId);
      expect(last.checkInMs).toBeLessThan(20 * 60_000);
      expect(last.checkInMs).toBeGreaterThan(3 * 60_000);
      expect((await shop.orders.heldAttempts())[verdict]).toBeGreaterThan(0);
      expect((await shop.orders.attempts(orderId))[0]).toMatchObject({ verdict, state: 'open' });
      expect(await shop.orders.find(orderId)).toMatchObject({ status: 'pending_payment' });
    },
  );

  test('is shown to ops when the provider has not answered for 5 minutes, or took longer than its policy allows', async () => {
    const [unknown, processing] = [await aFenced(), await aFenced()];
    await shop.orders.recordVerdict({ attemptId: unknown.attemptId, verdict: 'unknown', actor: 'test' });
    await shop.orders.recordVerdict({
      attemptId: processing.attemptId,
      verdict: 'processing',
      actor: 'test',
    });
    const alarms = async () => {
      const { rows } = await shop.database.query<{ verdict: string; days: number }>(
        `select verdict, (extract(epoch from alarm_at - verdict_since) / 86400)::float8 as days
         from payment_attempts where id = any ($1::uuid[]) order by verdict`,
        [[unknown.attemptId, processing.attemptId]],
      );
      return rows;
    };
    expect(await alarms()).toEqual([
      { verdict: 'processing', days: 14 },
      { verdict: 'unknown', days: 5 / (24 * 60) },
    ]);
    const before = await shop.orders.attemptAlarms();
    await shop.database.query(`update payment_attempts set alarm_at = clock_timestamp() where id = $1`, [
      processing.attemptId,
    ]);
    expect(await shop.orders.attemptAlarms()).toEqual({ ...before, processing: before.processing + 1 });
  });

  test('is alarmed about money on its way from its first word on, whatever is not answered in between', async () => {
    const { attemptId } = await aFenced();
    const say = (verdict: 'processing' | 'unknown' | 'open') =>
      shop.orders.recordVerdict({ attemptId, verdict, actor: 'test' });
    const alarmAt = async () => {
      const { rows } = await shop.database.query<{ at: Date }>(
        'select alarm_at as at from payment_attempts where id = $1',
        [attemptId],
      );
      return rows[0]?.at;
    };
    await say('processing');
    const first = await alarmAt();
    await say('unknown');
    expect(await alarmAt()).not.toEqual(first);
    await say('processing');
    expect(await alarmAt()).toEqual(first);
    await say('open');
    await say('processing');
    expect(await alarmAt()).not.toEqual(first);
  });

  test('that was paid while it was being closed is paid', async () => {
    const { orderId, attemptId } = await aFenced();
    const order = await shop.orders.find(orderId);
    if (order === undefined) throw new Error('not found');
    expect(
      await shop.orders.pay(aPayment(order, { verified: true, provider: 'wallet', attemptId })),
    ).toMatchObject({ outcome: 'paid', order: { status: 'paid' } });
    expect((await shop.orders.attempts(orderId))[0]).toMatchObject({ state: 'paid' });
    expect(await fence(orderId)).toMatchObject({ count: 0, closing: false });
    expect(await close(attemptId)).toEqual({ outcome: 'had_ended' });
  });

  test('that a customer cancels is cancelled at once, and its attempts are closed afterwards', async () => {
    const { orderId, attemptId } = await aFenced();
    await shop.orders.cancel({ orderId, reason: 'customer', actor: 'test' });
    const due = (await shop.orders.claimDueAsks(1000)).filter(({ id }) => id === attemptId);
    expect(due).toMatchObject([{ how: 'close', order: { id: orderId } }]);
    expect(await close(attemptId)).toEqual({ outcome: 'recorded', orderId, isDue: false });
    expect(await askAt(attemptId)).toBeNull();
  });

  test('that a customer cancels while another attempt begins is cancelled, and that attempt is closed afterwards', async () => {
    const { id: orderId } = await place(shop.orders);
    const session = await shop.database.connect();
    await session.query('begin');
    await session.query('update orders set open_attempt_count = 1 where id = $1', [orderId]);
    const cancelling = shop.orders.cancel({ orderId, reason: 'customer', actor: 'test' });
    await waitFor(async () => (await waitingCount(shop.database)) > 0, { what: 'the cancellation to wait' });
    await session.query(
      `insert into payment_attempts (id, order_id, provider, hand_off_as, pay_by, created_at)
       select id, id, 'wallet', 'url', deadline_at, created_at from orders where id = $1`,
      [orderId],
    );
    await session.query('commit');
    session.release();
    expect((await cancelling).outcome).toBe('cancelled');
    expect(await askAt(orderId)).not.toBeNull();
  });

  test('whose clock is frozen meanwhile is held; the thaw moves it, and its fence falls', async () => {
    const { orderId, attemptId } = await aFenced('frozen');
    const scope = { channel: 'frozen' };
    const { id } = await shop.orders.freeze({ reason: 'test', actor: 'test', scope });
    await close(attemptId);
    expect((await shop.orders.expire([orderId], 'test')).get(orderId)).toEqual({ answer: 'frozen' });
    await shop.database.query(`update freezes set frozen_at = frozen_at - interval '1 hour' where id = $1`, [
      id,
    ]);
    await shop.database.query(`update orders set created_at = created_at - interval '1 hour' where id = $1`, [
      orderId,
    ]);
    await shop.orders.thaw(id, 'test');
    while ((await shop.orders.thawStep(1000)).state !== 'done');
    expect((await shop.orders.expire([orderId], 'test')).get(orderId)).toMatchObject({ answer: 'not_due' });
    expect(await fence(orderId)).toMatchObject({ count: 0, closing: false });
    await openAttempt(shop.orders, orderId);
  });
});

describe('a question that is due by itself', () => {
  test('is asked once shortly before the deadline, and again after an extension', async () => {
    const order = await place(shop.orders, { paymentWindowMs: 3_600_000 });
    const attempt = await openAttempt(shop.orders, order.id);
    const expireAt = order.expireAt?.getTime() ?? 0;
    expect((await askAt(attempt.id))?.getTime()).toBe(expireAt - 60_000);
    await shop.database.query('update payment_attempts set ask_at = clock_timestamp() where id = $1', [
      attempt.id,
    ]);
    const due = await shop.orders.claimDueAsks(1000);
    expect(due.find(({ id }) => id === attempt.id)).toMatchObject({ how: 'look' });
    await shop.orders.recordVerdict({ attemptId: attempt.id, verdict: 'open', actor: 'test' });
    expect((await askAt(attempt.id))?.getTime()).toBe(expireAt - 60_000);
    await shop.orders.extend({ orderId: order.id, to: { byMs: 60_000 }, actor: 'test' });
    await shop.orders.recordVerdict({ attemptId: attempt.id, verdict: 'open', actor: 'test' });
    expect((await askAt(attempt.id))?.getTime()).toBe(expireAt);
  });

  test('is not asked where the whole window is shorter: there the verdict comes soon enough', async () => {
    const order = await place(shop.orders, { paymentWindowMs: 30_000 });
    expect(await askAt((await openAttempt(shop.orders, order.id)).id)).toBeNull();
  });

  test('of an order that is paid meanwhile leads to another: what a look found open is closed', async () => {
    const order = await place(shop.orders);
    const attempt = await openAttempt(shop.orders, order.id);
    await shop.orders.pay(aPayment(order));
    await shop.orders.recordVerdict({ attemptId: attempt.id, verdict: 'open', actor: 'test' });
    expect(await askAt(attempt.id)).not.toBeNull();
  });

  test('is claimed by one of several processes', async () => {
    const placed = await placeMany(shop.orders, 10, { paymentWindowMs: 3_600_000 });
    for (const { id } of placed) await openAttempt(shop.orders, id, 'claimed');
    const { attemptCount } = await shop.orders.requestReconcile({ provider: 'claimed', sinceMs: 60_000 });
    expect(attemptCount).toBe(10);
    const claims = await Promise.all(
      [shop.orders, shop.another().orders].map((orders) => orders.claimDueAsks(1000)),
    );
    const ours = claims.flat().filter(({ provider }) => provider === 'claimed');
    expect(ours.length).toBe(10);
    expect(new Set(ours.map(({ id }) => id)).size).toBe(10);
  });

  test('comes after an outage to orders that are held, too', async () => {
    const { orderId, attemptId } = await aFenced();
    // Money on its way: asked about again in a quarter of an hour.
    await shop.orders.recordVerdict({ attemptId, verdict: 'processing', actor: 'test' });
    expect((await shop.orders.sweep(1000, 'test')).has(orderId)).toBe(false);
    await shop.orders.requestReconcile({ provider: 'wallet', sinceMs: 60_000 });
    expect((await shop.orders.sweep(1000, 'test')).get(orderId)).toEqual({ answer: 'closing', isOurs: true });
  });

  test('of a paid order closes what is still open, so that nobody pays again', async () => {
    const order = await place(shop.orders);
    const used = await openAttempt(shop.orders, order.id);
    const unused = await openAttempt(shop.orders, order.id, 'bank');
    await shop.orders.pay(aPayment(order, { provider: 'wallet', verified: true, attemptId: used.id }));
    const due = (await shop.orders.claimDueAsks(1000)).filter(({ orderId }) => orderId === order.id);
    expect(due).toMatchObject([{ id: unused.id, how: 'close' }]);
    await shop.orders.recordVerdict({ attemptId: unused.id, verdict: 'unknown', actor: 'test' });
    expect(await askAt(unused.id)).not.toBeNull();
  });
});

test('a wrong amount ends its attempt, and the order may be paid by another', async () => {
  const order = await place(shop.orders);
  const attempt = await openAttempt(shop.orders, order.id);
  expect(
    await shop.orders.pay(
      aPayment(order, { provider: 'wallet', amount: 1, verified: true, attemptId: attempt.id }),
    ),
  ).toMatchObject({ outcome: 'amount_mismatch', payment: { refund: { state: 'due' } } });
  expect(await fence(order.id)).toMatchObject({ count: 0 });
  await openAttempt(shop.orders, order.id);
});

test('an attempt is found by our name and by its provider, and by no other provider', async () => {
  const order = await place(shop.orders);
  const { id, providerAttemptId } = await openAttempt(shop.orders, order.id);
  const find = async (provider: string, attemptId: string | null, name: string | null) =>
    (await shop.orders.findAttempt({ provider, attemptId, providerAttemptId: name }))?.id;
  expect(await find('wallet', id, null)).toBe(id);
  expect(await find('wallet', null, providerAttemptId)).toBe(id);
  expect(await find('bank', id, providerAttemptId)).toBeUndefined();
});
