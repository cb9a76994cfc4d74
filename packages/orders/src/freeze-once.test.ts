import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  aPayment,
  expectConsistent,
  openAttempt,
  openTestOrders,
  place,
  type TestOrders,
} from './testing.ts';

let shop: TestOrders;
beforeEach(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', null);
});
afterEach(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const request = { reason: 'it is away', actor: 'breaker:wallet', scope: { provider: 'wallet' } };

test('of many processes that freeze a provider once at the same time one does', async () => {
  const processes = [shop, shop.another(), shop.another()];
  const tries = processes.flatMap(({ orders }) => [1, 2, 3, 4].map(() => orders.freezeOnce(request)));
  const made = (await Promise.all(tries)).filter((freeze) => freeze !== undefined);
  expect(made).toMatchObject([{ state: 'frozen', ...request }]);
  expect(await shop.orders.frozenBy([request.actor, 'breaker:other'])).toEqual(made);
});

test('a freeze by others, and one that is thawed, are not in its way', async () => {
  await shop.orders.freeze({ ...request, actor: 'api' });
  const first = await shop.orders.freezeOnce(request);
  expect(first).toBeDefined();
  expect(await shop.orders.freezeOnce({ ...request, actor: 'breaker:bank' })).toBeDefined();
  await shop.orders.thaw(first?.id ?? '', 'test');
  expect(await shop.orders.frozenBy([request.actor])).toEqual([]);
  expect(await shop.orders.freezeOnce(request)).toMatchObject({ state: 'frozen' });
});

test('an attempt to ask about is an open one, else one that ended, never one that was refused', async () => {
  const { orders } = shop;
  const ask = async () => (await orders.attemptToAsk('wallet'))?.id;
  expect(await ask()).toBeUndefined();

  const refused = await place(orders);
  const begun = await orders.beginAttempt({
    orderId: refused.id,
    provider: 'wallet',
    handOffAs: 'url',
    returnUrl: null,
    actor: 'test',
  });
  if (begun.outcome !== 'opening') throw new Error(begun.outcome);
  expect(await ask()).toBe(begun.attempt.id);
  await orders.recordVerdict({ attemptId: begun.attempt.id, verdict: 'refused', actor: 'test' });
  expect(await ask()).toBeUndefined();

  const [one, other] = [await place(orders), await place(orders)];
  const [open, closed] = [await openAttempt(orders, one.id), await openAttempt(orders, other.id)];
  await openAttempt(orders, one.id, 'bank');
  await orders.recordVerdict({ attemptId: closed.id, verdict: 'closed', actor: 'test' });
  expect(await ask()).toBe(open.id);
  await orders.pay(
    aPayment(one, { provider: 'wallet', providerPaymentId: 'c', verified: true, attemptId: open.id }),
  );
  expect([open.id, closed.id]).toContain(await ask());
});
