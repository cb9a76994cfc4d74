import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Freeze, FreezeScope } from './freeze.ts';
import type { Order } from './order.ts';
import {
  beginThaw,
  expectConsistent,
  letPass,
  makeDue,
  openAttempt,
  openTestOrders,
  place,
  placeOverdue,
  type TestOrders,
} from './testing.ts';

let shop: TestOrders;
beforeEach(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', 100_000);
});
afterEach(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const freeze = (scope: FreezeScope): Promise<Freeze> =>
  shop.orders.freeze({ reason: 'it is down', actor: 'test', scope });

const thaw = ({ id }: Freeze): Promise<Freeze> => beginThaw(shop.orders, id);

async function finishThaws(): Promise<void> {
  while ((await shop.orders.thawStep(1000)).state !== 'idle');
}

const answer = async ({ id }: Order): Promise<string | undefined> =>
  (await shop.orders.expire([id], 'test')).get(id)?.answer;

/** How much later its deadline is than it was placed with, ms. */
async function gained({ id }: Order, windowMs = 60_000): Promise<number> {
  const order = await shop.orders.find(id);
  return (order?.deadlineAt?.getTime() ?? 0) - (order?.createdAt.getTime() ?? 0) - windowMs;
}

const spanMs = ({ frozenAt, thawingAt }: Freeze): number => (thawingAt?.getTime() ?? 0) - frozenAt.getTime();

test.each([
  ['a channel', { channel: 'web' }, [true, true, false, false]],
  ['a payment method', { paymentMethod: 'card' }, [true, false, true, false]],
  ['both', { channel: 'web', paymentMethod: 'card' }, [true, false, false, false]],
  ['everybody', {}, [true, true, true, true]],
])('a freeze of %s holds those in its scope and nobody else', async (_, scope, isHeld) => {
  const orders = [
    await place(shop.orders, { channel: 'web', paymentMethod: 'card' }),
    await place(shop.orders, { channel: 'web', paymentMethod: 'transfer' }),
    await place(shop.orders, { channel: 'app', paymentMethod: 'card' }),
    await place(shop.orders, { channel: 'app', paymentMethod: 'transfer' }),
  ];
  expect(await freeze(scope)).toMatchObject({ scope, state: 'frozen' });
  await makeDue(shop.database, orders);
  const swept = await shop.orders.sweep(100, 'test');
  expect(orders.map(({ id }) => !swept.has(id))).toEqual(isHeld);
  for (const [n, order] of orders.entries())
    expect(await answer(order)).toBe(isHeld[n] ? 'frozen' : 'settled');
});

test.each([
  ['a freeze of its provider', () => freeze({ provider: 'bank' })],
  ['a freeze of everybody', () => freeze({})],
])('under %s a customer may switch to another provider, even after the deadline', async (_, begin) => {
  const order = await place(shop.orders, {});
  await openAttempt(shop.orders, order.id, 'bank');
  const frozen = await begin();
  await letPass(shop.database, 120_000);
  const attempt = await openAttempt(shop.orders, order.id, 'wallet');
  expect(attempt).toMatchObject({ state: 'open', payBy: null });
  await thaw(frozen);
  await finishThaws();
  expect(await answer(order)).toBe('not_due');
  await letPass(shop.database, 60_000);
  expect(await answer(order)).toBe('closing');
});

test('an order whose providers are being asked takes no other attempt, frozen or not', async () => {
  const order = await place(shop.orders, {});
  await openAttempt(shop.orders, order.id, 'bank');
  await letPass(shop.database, 120_000);
  expect(await answer(order)).toBe('closing');
  await freeze({});
  const wish = { orderId: order.id, handOffAs: 'url', returnUrl: null, actor: 'test' } as const;
  expect(await shop.orders.beginAttempt({ ...wish, provider: 'wallet' })).toMatchObject({
    outcome: 'order_closing',
  });
});

test('the freezes that hold an order are told, until their thaw has moved it', async () => {
  const web = await place(shop.orders, { channel: 'web' });
  const app = await place(shop.orders, { channel: 'app' });
  await openAttempt(shop.orders, app.id, 'wallet');
  const scopes: FreezeScope[] = [{ channel: 'web' }, { provider: 'wallet' }, {}];
  const freezes: Freeze[] = [];
  for (const scope of scopes) freezes.push(await freeze(scope));
  const [ofWeb, ofWallet, ofAll] = freezes.map(({ id }) => id);
  const holding = async ({ id }: Order) => (await shop.orders.freezesOf(id)).map((one) => one.id);
  expect(await holding(web)).toEqual([ofWeb, ofAll]);
  expect(await holding(app)).toEqual([ofWallet, ofAll]);
  expect((await shop.orders.activeFreezes(10)).map(({ scope }) => scope)).toEqual(scopes);
  expect((await shop.orders.activeFreezes(2)).map(({ id }) => id)).toEqual([ofWeb, ofWallet]);

  for (const one of freezes) await thaw(one);
  expect(await holding(web)).toEqual([ofWeb, ofAll]);
  expect(await holding(await place(shop.orders, { channel: 'web' }))).toEqual([]);
  await finishThaws();
  expect(await holding(web)).toEqual([]);
  expect(await shop.orders.activeFreezes(10)).toEqual([]);
});

test('the thaw moves those in its scope by the time they stood frozen, and nobody else', async () => {
  const [inside, outside] = [await place(shop.orders, { channel: 'web' }), await place(shop.orders)];
  const frozen = await freeze({ channel: 'web' });
  await letPass(shop.database, 30_000);
  const thawed = await thaw(frozen);
  await finishThaws();
  expect(await gained(inside)).toBe(spanMs((await shop.orders.findFreeze(thawed.id)) ?? thawed));
  expect(await gained(outside)).toBe(0);
});

test('where freezes of different scopes overlap, the time of an order in both counts once', async () => {
  const [both, one] = [
    await place(shop.orders, { channel: 'web', paymentMethod: 'card' }),
    await place(shop.orders, { channel: 'web', paymentMethod: 'transfer' }),
  ];
  const first = await freeze({ channel: 'web' });
  await letPass(shop.database, 10_000);
  const second = await freeze({ paymentMethod: 'card' });
  await letPass(shop.database, 10_000);
  await thaw(first);
  await letPass(shop.database, 10_000);
  await thaw(second);
  await finishThaws();
  const [web, card] = [await shop.orders.findFreeze(first.id), await shop.orders.findFreeze(second.id)];
  if (web === undefined || card === undefined) throw new Error('a freeze is gone');
  expect(await gained(one)).toBe(spanMs(web));
  expect(await gained(both)).toBe((card.thawingAt?.getTime() ?? 0) - web.frozenAt.getTime());
});

describe('a freeze of a provider', () => {
  test('holds orders that have, or had, an attempt there', async () => {
    const [has, had, never] = [await place(shop.orders), await place(shop.orders), await place(shop.orders)];
    await openAttempt(shop.orders, has.id, 'stripe');
    // Gave up there and went elsewhere: is not cancelled for the outage.
    const given = await openAttempt(shop.orders, had.id, 'stripe');
    await shop.orders.recordVerdict({ attemptId: given.id, verdict: 'closed', actor: 'test' });
    await openAttempt(shop.orders, never.id, 'wallet');
    await freeze({ provider: 'stripe' });
    await makeDue(shop.database, [has, had, never]);
    expect([await answer(has), await answer(had), await answer(never)]).toEqual([
      'frozen',
      'frozen',
      'closing',
    ]);
  });

  test('holds an order from its first attempt there on, and gives back no more than that', async () => {
    const order = await place(shop.orders);
    const frozen = await freeze({ provider: 'stripe' });
    await letPass(shop.database, 10_000);
    await openAttempt(shop.orders, order.id, 'stripe');
    await letPass(shop.database, 20_000);
    await thaw(frozen);
    await finishThaws();
    const gainedMs = await gained(order);
    expect(gainedMs).toBeGreaterThanOrEqual(20_000);
    expect(gainedMs).toBeLessThan(30_000);
  });

  test('gives nothing to an order whose first attempt there came after the thaw began', async () => {
    const order = await place(shop.orders);
    const frozen = await freeze({ provider: 'stripe' });
    await thaw(frozen);
    await openAttempt(shop.orders, order.id, 'stripe');
    await finishThaws();
    expect(await gained(order)).toBe(0);
  });
});

test('overdue orders that stand still do not stand before the others in a sweep', async () => {
  await placeOverdue(shop.database, 3000, 60_000);
  const due = await place(shop.orders, { channel: 'app' });
  await makeDue(shop.database, [due]);
  const frozen = await freeze({ channel: 'default' });
  expect([...(await shop.orders.sweep(100, 'test')).keys()]).toEqual([due.id]);
  const { rows } = await shop.database.query<{ count: number }>(
    `select count(*) as count from orders where status = 'pending_payment' and check_at <= clock_timestamp()`,
  );
  expect(rows[0]?.count).toBe(0);
  // However far they were put off, the thaw finds them.
  await letPass(shop.database, 5000);
  await thaw(frozen);
  await finishThaws();
  const { rows: left } = await shop.database.query<{ count: number }>(
    `select count(*) as count from orders where status = 'pending_payment' and check_at = expire_at`,
  );
  expect(left[0]?.count).toBe(3000);
});
