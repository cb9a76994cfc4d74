import { createClient, LapseError, type Page, type PageQuery } from '@lapse/client';
import { inParallel } from '@lapse/devstack';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { apiKey, startFleet, untilNonePending, type Fleet } from './fleet.ts';

let fleet: Fleet;

beforeAll(async () => {
  fleet = await startFleet({ apiCount: 2, workerCount: 1 });
});

afterAll(async () => {
  await untilNonePending(fleet.database, 20_000);
  await fleet.expectInvariants();
  await fleet.stop();
});

/** Clients of both api processes, in turn. */
function clientOf(n: number) {
  return createClient({ baseUrl: fleet.apis[n % 2]?.url ?? '', apiKey });
}

test('the same checkout posted 50 times with one key, at two processes, places one order', async () => {
  await fleet.client.setStock('mug', 100);
  const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];
  const checkout = { currency: 'EUR', items, paymentWindowMs: 5000 };
  const orders = await inParallel(50, 50, (n) => clientOf(n).checkout(checkout, { idempotencyKey: 'one' }));
  expect(new Set(orders.map(({ id }) => id)).size).toBe(1);
  expect((await fleet.client.stock('mug')).held).toBe(1);
});

test('the same payment posted 50 times with one key is one payment', async () => {
  await fleet.client.setStock('poster', 1);
  const items = [{ sku: 'poster', quantity: 1, unitAmount: 100 }];
  const order = await fleet.client.checkout({ currency: 'EUR', items });
  const payment = { provider: 'shop', providerPaymentId: 'once', amount: 100, currency: 'EUR' };
  const results = await inParallel(50, 50, (n) =>
    clientOf(n).pay(order.id, payment, { idempotencyKey: 'pay' }),
  );
  expect(new Set(results.map(({ payment: { id } }) => id)).size).toBe(1);
  expect(new Set(results.map(({ outcome }) => outcome))).toEqual(new Set(['paid']));
  expect(await fleet.client.stock('poster')).toEqual({ sku: 'poster', onHand: 0, held: 0, available: 0 });
});

test('a stock of 100 sells exactly 100 pieces to 1,000 buyers at two processes', async () => {
  await fleet.client.setStock('console', 100);
  const items = [{ sku: 'console', quantity: 1, unitAmount: 49_900 }];
  const answers = await inParallel(1000, 200, async (n) => {
    try {
      await clientOf(n).checkout({ currency: 'EUR', items, paymentWindowMs: 3000 });
      return 'placed';
    } catch (error) {
      if (error instanceof LapseError) return error.code;
      throw error;
    }
  });
  expect(answers.filter((answer) => answer === 'placed').length).toBe(100);
  expect(answers.filter((answer) => answer === 'out_of_stock').length).toBe(900);
  expect(await fleet.client.stock('console')).toEqual({
    sku: 'console',
    onHand: 100,
    held: 100,
    available: 0,
  });
});

test('the client lists all stock, and all money that a person must decide about, page by page', async () => {
  const { client } = fleet;
  await client.setStock('lamp', 10);
  const items = [{ sku: 'lamp', quantity: 1, unitAmount: 100 }];
  const order = await client.checkout({ currency: 'EUR', items });
  for (const providerPaymentId of ['less-1', 'less-2']) {
    await client.pay(order.id, { provider: 'shop', providerPaymentId, amount: 1, currency: 'EUR' });
  }
  await client.cancel(order.id);

  const stocks = await everyPage((query) => client.stocks(query));
  const listed = await everyPage((query) => client.workList(query));
  expect(stocks).toContainEqual(await client.stock('lamp'));
  expect(stocks.map(({ sku }) => sku)).toEqual(stocks.map(({ sku }) => sku).toSorted());
  expect(listed).toMatchObject(
    ['less-1', 'less-2'].map((providerPaymentId) => ({
      providerPaymentId,
      orderId: order.id,
      outcome: 'amount_mismatch',
      verified: false,
    })),
  );
});

/** Reads a list to its end, one a page. */
async function everyPage<Item>(list: (query: PageQuery) => Promise<Page<Item>>): Promise<Item[]> {
  const seen: Item[] = [];
  for (let cursor: string | undefined; ;) {
    const page = await list(cursor === undefined ? { limit: 1 } : { limit: 1, cursor });
    seen.push(...page.data);
    if (page.nextCursor === null) return seen;
    cursor = page.nextCursor;
  }
}
