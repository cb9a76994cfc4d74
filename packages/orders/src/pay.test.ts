import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  aPayment,
  eventTypes,
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
  await shop.orders.setStock('a', 10_000);
});
afterAll(async () => {
  await expectConsistent(shop.database);
  await shop.close();
});

const types = (orderId: string) => eventTypes(shop.orders, orderId);

test('a payment of the right amount pays its order, and what was held is sold', async () => {
  await shop.orders.setStock('b', 10);
  await shop.orders.setStock('digital', null);
  const order = await place(shop.orders, {
    items: [
      { sku: 'b', quantity: 3, unitAmount: 100 },
      { sku: 'digital', quantity: 1, unitAmount: 50 },
    ],
  });
  const answer = await shop.orders.pay(aPayment(order, { verified: false, actor: 'the bank' }));
  expect(answer).toMatchObject({
    outcome: 'paid',
    order: { id: order.id, status: 'paid', paidAt: expect.any(Date), remainingMs: 0, cancelledAt: null },
    payment: { orderId: order.id, amount: 350, currency: 'EUR', verified: false, listedAt: null },
  });
  expect(await shop.orders.readStock('b')).toEqual({ sku: 'b', onHand: 7, held: 0, available: 7 });
  expect(await shop.orders.readStock('digital')).toMatchObject({ onHand: null, held: 0 });
  expect((await shop.orders.timeline(order.id)).at(-1)).toMatchObject({
    type: 'order.paid',
    actor: 'the bank',
    data: { outcome: 'paid', provider: 'bank', amount: 350 },
  });
});

test('a payment is accepted after the deadline as long as the order is pending', async () => {
  const order = await place(shop.orders);
  await makeDue(shop.database, [order], 60_000);
  expect(await shop.orders.pay(aPayment(order))).toMatchObject({
    outcome: 'paid',
    order: { status: 'paid' },
  });
});

test('the same capture again is already recorded and changes nothing', async () => {
  const order = await place(shop.orders);
  const first = await shop.orders.pay(aPayment(order));
  const again = await shop.orders.pay(aPayment(order));
  expect(again).toEqual({ ...first, outcome: 'already_recorded' });
  expect(await types(order.id)).toEqual(['order.placed', 'order.paid']);
});

test('the same capture for another order is a conflict and leaves both as they were', async () => {
  const [order, other] = [await place(shop.orders), await place(shop.orders)];
  await shop.orders.pay(aPayment(order));
  const { providerPaymentId } = aPayment(order);
  expect(await shop.orders.pay(aPayment(other, { providerPaymentId }))).toEqual({
    outcome: 'payment_conflict',
  });
  expect(await shop.orders.find(other.id)).toMatchObject({ status: 'pending_payment' });
  // Another provider may use the same id for something else.
  expect(await shop.orders.pay(aPayment(other, { providerPaymentId, provider: 'wallet' }))).toMatchObject({
    outcome: 'paid',
  });
});

test('a payment for an unknown order is refused', async () => {
  const order = await place(shop.orders);
  const orderId = '01890000-0000-7000-8000-000000000000';
  expect(await shop.orders.pay(aPayment(order, { orderId }))).toEqual({ outcome: 'order_not_found' });
});

describe('money that does not pay its order is listed:', () => {
  test.each([
    ['too little', { amount: 499 }],
    ['too much', { amount: 501 }],
    ['another currency', { currency: 'CHF' }],
  ])('%s leaves the order pending', async (_, wrong) => {
    const order = await place(shop.orders);
    expect(await shop.orders.pay(aPayment(order, wrong))).toMatchObject({
      outcome: 'amount_mismatch',
      order: { status: 'pending_payment' },
      payment: { ...wrong, listedAt: expect.any(Date) },
    });
    expect(
      await shop.orders.pay(aPayment(order, { providerPaymentId: `right for ${order.id}` })),
    ).toMatchObject({
      outcome: 'paid',
    });
    expect(await types(order.id)).toEqual(['order.placed', 'payment.listed', 'order.paid']);
  });

  test('a second capture on a paid order is a duplicate', async () => {
    const order = await place(shop.orders);
    const first = await shop.orders.pay(aPayment(order));
    expect(
      await shop.orders.pay(aPayment(order, { providerPaymentId: `second for ${order.id}` })),
    ).toMatchObject({
      outcome: 'duplicate',
      order: first.outcome === 'paid' ? { paidAt: first.order.paidAt } : {},
      payment: { listedAt: expect.any(Date) },
    });
  });

  test('money for a cancelled order is late', async () => {
    await shop.orders.setStock('c', 1);
    const order = await place(shop.orders, { items: [{ sku: 'c', quantity: 1, unitAmount: 100 }] });
    await makeDue(shop.database, [order]);
    await shop.orders.expire([order.id], 'test');
    expect(await shop.orders.pay(aPayment(order))).toMatchObject({
      outcome: 'late',
      order: { status: 'cancelled', cancelReason: 'payment_timeout', paidAt: null },
      payment: { listedAt: expect.any(Date) },
    });
    expect(await shop.orders.readStock('c')).toMatchObject({ onHand: 1, held: 0 });
    expect(await types(order.id)).toEqual(['order.placed', 'order.cancelled', 'payment.listed']);
  });

  test('the work list shows it, that which waits longest first, page by page', async () => {
    const all = await shop.orders.workList({ limit: 1000 });
    expect(all.map(({ outcome }) => outcome)).toEqual(
      expect.arrayContaining(['amount_mismatch', 'duplicate', 'late']),
    );
    expect(all.map(({ outcome }) => outcome)).not.toContain('paid');
    const paged = [];
    for (let page = await shop.orders.workList({ limit: 2 }); page.length > 0;) {
      paged.push(...page);
      const { id, listedAt } = page[page.length - 1] ?? {};
      if (id === undefined || !listedAt) throw new Error('a listed payment has no time');
      page = await shop.orders.workList({ after: { id, listedAt }, limit: 2 });
    }
    expect(paged).toEqual(all);
  });
});

describe('in one batch', () => {
  test('the first of two captures for one order pays it, the other is a duplicate', async () => {
    const order = await place(shop.orders);
    const answers = await Promise.all(
      ['one', 'two'].map((n) =>
        shop.orders.pay(aPayment(order, { providerPaymentId: `${n} for ${order.id}` })),
      ),
    );
    expect(answers.map(({ outcome }) => outcome)).toEqual(['paid', 'duplicate']);
  });

  test('one capture told twice is recorded once', async () => {
    const order = await place(shop.orders);
    const answers = await Promise.all([shop.orders.pay(aPayment(order)), shop.orders.pay(aPayment(order))]);
    expect(answers.map(({ outcome }) => outcome)).toEqual(['paid', 'already_recorded']);
    expect((await shop.orders.payments(order.id)).length).toBe(1);
  });

  test('one capture told for two orders pays the first', async () => {
    const [order, other] = [await place(shop.orders), await place(shop.orders)];
    const { providerPaymentId } = aPayment(order);
    const answers = await Promise.all([
      shop.orders.pay(aPayment(order)),
      shop.orders.pay(aPayment(other, { providerPaymentId })),
    ]);
    expect(answers.map(({ outcome }) => outcome)).toEqual(['paid', 'payment_conflict']);
  });

  test('a payment that the database refuses fails alone', async () => {
    const orders = await placeMany(shop.orders, 50);
    const answers = await Promise.allSettled(
      orders.map((order, n) => shop.orders.pay(aPayment(order, n === 20 ? { provider: 'ba\u0000nk' } : {}))),
    );
    expect(
      answers.map((answer) => (answer.status === 'fulfilled' ? answer.value.outcome : 'refused')),
    ).toEqual(orders.map((_, n) => (n === 20 ? 'refused' : 'paid')));
  });
});

describe('in several processes at once', () => {
  test('an order is paid once, and every other capture is a duplicate', async () => {
    const processes = [shop.orders, shop.another().orders, shop.another().orders];
    for (const order of await placeMany(shop.orders, 20)) {
      const answers = await Promise.all(
        processes.map((orders, n) =>
          orders.pay(aPayment(order, { providerPaymentId: `${n} for ${order.id}` })),
        ),
      );
      expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual(['duplicate', 'duplicate', 'paid']);
    }
  });

  test('a capture is recorded once', async () => {
    const processes = [shop.orders, shop.another().orders, shop.another().orders];
    for (const order of await placeMany(shop.orders, 20)) {
      const answers = await Promise.all(processes.map((orders) => orders.pay(aPayment(order))));
      expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual([
        'already_recorded',
        'already_recorded',
        'paid',
      ]);
    }
  });

  test('a capture that is told for two orders pays one of them, the other is a conflict', async () => {
    const other = shop.another().orders;
    const orders = await placeMany(shop.orders, 40);
    for (let n = 0; n < orders.length; n += 2) {
      const [left, right] = orders.slice(n, n + 2);
      if (left === undefined || right === undefined) throw new Error('an order is missing');
      const { providerPaymentId } = aPayment(left);
      const answers = await Promise.all([
        shop.orders.pay(aPayment(left)),
        other.pay(aPayment(right, { providerPaymentId })),
      ]);
      expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual(['paid', 'payment_conflict']);
    }
  });
});
