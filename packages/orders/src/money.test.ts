import { waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Order } from './order.ts';
import type { PayRequest } from './pay-decide.ts';
import {
  aPayment,
  eventTypes,
  expectConsistent,
  makeDue,
  onePolicy,
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

const types = (orderId: string) => eventTypes(shop.orders, orderId);
const verified = (order: Order, changes: Partial<PayRequest> = {}) =>
  aPayment(order, { verified: true, ...changes });
const decide = (paymentId: string, resolution: 'refund' | 'accept' | 'dismiss') =>
  shop.orders.decideWork({ paymentId, resolution, note: 'because', actor: 'ann' });

async function aCancelled(orders = shop.orders, sku = 'a'): Promise<Order> {
  const order = await place(orders, { items: [{ sku, quantity: 1, unitAmount: 500 }] });
  await makeDue(shop.database, [order]);
  await orders.expire([order.id], 'test');
  return order;
}

/** The payment of an answer that has one. */
function paymentOf(answer: object): { id: string; refundId: string } {
  if (!('payment' in answer)) throw new Error('no payment was recorded');
  const { payment } = answer as { payment: { id: string; refund: { id: string } | null } };
  return { id: payment.id, refundId: payment.refund?.id ?? '' };
}

async function isListed(paymentId: string): Promise<boolean> {
  return (await shop.orders.workList({ limit: 1000 })).some(({ id }) => id === paymentId);
}

/** Takes the refund as a worker would, however many others there are. */
async function claim(refundId: string) {
  await shop.database.query('update refunds set try_at = clock_timestamp() where id = $1', [refundId]);
  const claimed = (await shop.orders.claimRefunds(1000)).find(({ id }) => id === refundId);
  if (claimed === undefined) throw new Error('the refund was not due');
  return claimed;
}

describe('verified money that pays nothing falls due to go back, in the transaction that records it:', () => {
  test('late', async () => {
    const order = await aCancelled();
    expect(await shop.orders.pay(verified(order))).toMatchObject({
      outcome: 'late',
      order: { status: 'cancelled' },
      payment: { verified: true, listedAt: null, refund: { state: 'due', actor: 'policy', tryCount: 0 } },
    });
    expect((await types(order.id)).at(-1)).toBe('payment.refund_due');
  });

  test('a duplicate, and a wrong amount', async () => {
    const order = await place(shop.orders);
    expect(
      await shop.orders.pay(verified(order, { amount: 1, providerPaymentId: `1 ${order.id}` })),
    ).toMatchObject({
      outcome: 'amount_mismatch',
      order: { status: 'pending_payment' },
      payment: { refund: { state: 'due' } },
    });
    await shop.orders.pay(verified(order));
    expect(await shop.orders.pay(verified(order, { providerPaymentId: `2 ${order.id}` }))).toMatchObject({
      outcome: 'duplicate',
      payment: { refund: { state: 'due' } },
    });
  });

  test('told again it is the same refund', async () => {
    const order = await aCancelled();
    const first = paymentOf(await shop.orders.pay(verified(order)));
    const again = await shop.orders.pay(verified(order));
    expect(again).toMatchObject({ outcome: 'already_recorded' });
    expect(paymentOf(again)).toEqual(first);
  });

  test('but for an order that does not exist a person decides', async () => {
    const order = await place(shop.orders);
    const orderId = '01890000-0000-7000-8000-000000000000';
    const answer = await shop.orders.pay(verified(order, { orderId, providerPaymentId: 'orderless' }));
    expect(answer).toMatchObject({
      outcome: 'orderless',
      payment: { orderId: null, outcome: 'orderless', listedFor: 'orderless' },
    });
    expect(await isListed(paymentOf(answer).id)).toBe(true);
    expect(
      await shop.orders.pay(verified(order, { orderId: null, providerPaymentId: 'orderless' })),
    ).toMatchObject({
      outcome: 'orderless',
    });
    const listedAt = async () =>
      (await shop.orders.workList({ limit: 1000 })).map((listed) => listed.listedAt);
    const before = await listedAt();
    await shop.orders.pay(verified(order, { orderId, providerPaymentId: 'orderless' }));
    expect(await listedAt()).toEqual(before);
    // Somebody learns which order it is for.
    expect(await shop.orders.pay(verified(order, { providerPaymentId: 'orderless' }))).toMatchObject({
      outcome: 'paid',
      payment: { id: paymentOf(answer).id, listedAt: null },
    });
  });
});

describe('by policy', () => {
  test('manual: nothing goes back by itself', async () => {
    const { orders } = shop.another({ policies: onePolicy({ lateMoney: 'manual' }) });
    const order = await aCancelled(orders);
    expect(await orders.pay(verified(order))).toMatchObject({
      outcome: 'late',
      payment: { listedFor: 'policy', refund: null },
    });
  });

  test('reinstate: where the stock is still there the order is paid after all', async () => {
    const { orders } = shop.another({ policies: onePolicy({ lateMoney: 'reinstate' }) });
    await orders.setStock('r', 1);
    const order = await aCancelled(orders, 'r');
    expect(await orders.pay(verified(order))).toMatchObject({
      outcome: 'paid',
      order: { status: 'paid', cancelledAt: null, cancelReason: null, paidAt: expect.any(Date) },
      payment: { outcome: 'paid', refund: null },
    });
    expect(await orders.readStock('r')).toMatchObject({ onHand: 0, held: 0 });
    expect(await types(order.id)).toEqual(['order.placed', 'order.cancelled', 'order.reinstated']);
    expect(await orders.pay(verified(order, { providerPaymentId: `2 ${order.id}` }))).toMatchObject({
      outcome: 'duplicate',
    });
  });

  test('reinstate: where it is sold, the money goes back', async () => {
    const { orders } = shop.another({ policies: onePolicy({ lateMoney: 'reinstate' }) });
    await orders.setStock('s', 1);
    const order = await aCancelled(orders, 's');
    await place(orders, { items: [{ sku: 's', quantity: 1, unitAmount: 500 }] });
    expect(await orders.pay(verified(order))).toMatchObject({
      outcome: 'late',
      order: { status: 'cancelled' },
      payment: { refund: { state: 'due' } },
    });
  });

  test('reinstate: of several that want the last piece one gets it', async () => {
    const { orders } = shop.another({ policies: onePolicy({ lateMoney: 'reinstate' }) });
    await orders.setStock('t', 1);
    const late = [
      await aCancelled(orders, 't'),
      await aCancelled(orders, 't'),
      await aCancelled(orders, 't'),
    ];
    const answers = await Promise.all(late.map((order) => orders.pay(verified(order))));
    expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual(['late', 'late', 'paid']);
  });

  test('reinstate: what a person cancelled stays cancelled', async () => {
    const { orders } = shop.another({ policies: onePolicy({ lateMoney: 'reinstate' }) });
    const order = await place(orders);
    await orders.cancel({ orderId: order.id, reason: 'customer', actor: 'test' });
    expect(await orders.pay(verified(order))).toMatchObject({
      outcome: 'late',
      payment: { refund: { state: 'due' } },
    });
  });

  test('never: such an order has no deadline, is not swept, and can be paid', async () => {
    const { orders } = shop.another({ policies: onePolicy({ windowMs: null }) });
    const order = await place(orders, { paymentWindowMs: undefined });
    expect(order).toMatchObject({ deadlineAt: null, expireAt: null, remainingMs: null });
    expect(await orders.find(order.id)).toEqual(order);
    expect((await orders.expire([order.id], 'test')).get(order.id)).toMatchObject({ answer: 'not_due' });
    expect((await orders.extend({ orderId: order.id, to: { byMs: 1000 }, actor: 'test' })).outcome).toBe(
      'out_of_range',
    );
    const { id } = await orders.freeze({ reason: 'test', actor: 'test' });
    await orders.thaw(id, 'test');
    while ((await orders.thawStep(1000)).state !== 'done');
    expect(await orders.find(order.id)).toEqual(order);
    expect(await orders.pay(verified(order))).toMatchObject({
      outcome: 'paid',
      order: { remainingMs: null },
    });
  });

  test('grace: the customer is shown the deadline, the order expires later', async () => {
    const { orders } = shop.another({ policies: onePolicy({ windowMs: 60_000, graceMs: 5000 }) });
    const order = await place(orders, { paymentWindowMs: undefined });
    expect((order.expireAt?.getTime() ?? 0) - (order.deadlineAt?.getTime() ?? 0)).toBe(5000);
    expect(await orders.find(order.id)).toMatchObject({
      deadlineAt: order.deadlineAt,
      expireAt: order.expireAt,
    });
  });

  test('extensions are bounded in number and in all', async () => {
    const { orders } = shop.another({
      policies: onePolicy({ extension: { maxCount: 2, maxTotalMs: 10_000 } }),
    });
    const { id: orderId } = await place(orders);
    const extend = (byMs: number) => orders.extend({ orderId, to: { byMs }, actor: 'test' });
    expect(await extend(10_001)).toMatchObject({ outcome: 'beyond_policy', bound: '10000 ms in all' });
    expect((await extend(4000)).outcome).toBe('extended');
    expect(await extend(6001)).toMatchObject({ outcome: 'beyond_policy' });
    expect((await extend(6000)).outcome).toBe('extended');
    expect(await extend(1)).toMatchObject({ outcome: 'beyond_policy', bound: '2 extensions' });
  });
});

describe('in one batch', () => {
  test('several notices of one capture end its attempt once', async () => {
    const order = await place(shop.orders);
    const one = await openAttempt(shop.orders, order.id, 'wallet');
    await openAttempt(shop.orders, order.id, 'bank');
    const notice = verified(order, { provider: 'wallet', amount: 1, attemptId: one.id });
    // Those that come first keep the next ones company.
    const others = await placeMany(shop.orders, 3);
    await Promise.all([
      ...others.map((other) => shop.orders.pay(aPayment(other))),
      ...[1, 2, 3].map(() => shop.orders.pay(notice)),
    ]);
    await makeDue(shop.database, [order]);
    expect((await shop.orders.expire([order.id], 'test')).get(order.id)).toMatchObject({ answer: 'closing' });
    expect((await types(order.id)).filter((type) => type === 'attempt.paid').length).toBe(1);
  });

  test('what cannot be reinstated is late, and so is what comes after it', async () => {
    const { orders } = shop.another({ policies: onePolicy({ lateMoney: 'reinstate' }) });
    await orders.setStock('gone', 1);
    const order = await aCancelled(orders, 'gone');
    await orders.setStock('gone', 0);
    const answers = await Promise.all(
      ['one', 'two'].map((n) => orders.pay(verified(order, { providerPaymentId: `${n} for ${order.id}` }))),
    );
    expect(answers.map(({ outcome }) => outcome)).toEqual(['late', 'late']);
  });

  test('what is reinstated is paid, and what comes after it is a duplicate', async () => {
    const { orders } = shop.another({ policies: onePolicy({ lateMoney: 'reinstate' }) });
    const order = await aCancelled(orders);
    const answers = await Promise.all(
      ['one', 'two'].map((n) => orders.pay(verified(order, { providerPaymentId: `${n} for ${order.id}` }))),
    );
    expect(answers.map(({ outcome }) => outcome)).toEqual(['paid', 'duplicate']);
  });
});

test('an orderless capture that two processes name for two orders pays one of them', async () => {
  const other = shop.another();
  for (let n = 0; n < 30; n += 1) {
    const [a, b] = [await place(shop.orders), await place(shop.orders)];
    const providerPaymentId = `whose ${n}`;
    await shop.orders.pay(verified(a, { orderId: null, providerPaymentId }));
    const answers = await Promise.all([
      shop.orders.pay(verified(a, { providerPaymentId })),
      other.orders.pay(verified(b, { providerPaymentId })),
    ]);
    expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual(['paid', 'payment_conflict']);
  }
});

describe('the provider knows better than who told before:', () => {
  test('a wrong amount that was only reported pays when the provider tells the right one', async () => {
    const order = await place(shop.orders);
    const first = await shop.orders.pay(aPayment(order, { amount: 1 }));
    expect(first).toMatchObject({ outcome: 'amount_mismatch', payment: { listedFor: 'unverified' } });
    expect(await shop.orders.pay(verified(order))).toMatchObject({
      outcome: 'paid',
      payment: { id: paymentOf(first).id, amount: 500, verified: true, listedAt: null },
    });
    expect((await shop.orders.payments(order.id)).length).toBe(1);
  });

  test('a late payment that was only reported goes back when the provider confirms it', async () => {
    const order = await aCancelled();
    const first = await shop.orders.pay(aPayment(order));
    expect(await shop.orders.pay(verified(order))).toMatchObject({
      outcome: 'late',
      payment: { id: paymentOf(first).id, listedAt: null, refund: { state: 'due' } },
    });
  });

  test('an order that was paid by a report stays paid; another amount is shown to a person', async () => {
    const [same, differs] = [await place(shop.orders), await place(shop.orders)];
    await shop.orders.pay(aPayment(same));
    expect(await shop.orders.pay(verified(same))).toMatchObject({
      outcome: 'already_recorded',
      payment: { verified: true, listedAt: null },
    });
    await shop.orders.pay(aPayment(differs));
    const told = await shop.orders.pay(verified(differs, { amount: 499 }));
    expect(told).toMatchObject({
      outcome: 'already_recorded',
      order: { status: 'paid' },
      payment: { amount: 499, verified: true, listedFor: 'restated' },
    });
    expect(await decide(paymentOf(told).id, 'accept')).toMatchObject({ outcome: 'resolved', isPaid: false });
  });

  test('that it was for another order: both stay as they are, and a person is told', async () => {
    const [wrong, right] = [await place(shop.orders), await place(shop.orders)];
    const first = await shop.orders.pay(aPayment(wrong));
    const { providerPaymentId } = aPayment(wrong);
    expect(await shop.orders.pay(verified(right, { providerPaymentId }))).toEqual({
      outcome: 'payment_conflict',
    });
    expect((await shop.orders.payments(wrong.id))[0]).toMatchObject({
      id: paymentOf(first).id,
      listedFor: 'conflict',
    });
  });

  test('what a person had dismissed as a slip pays the order that waits for it', async () => {
    const order = await place(shop.orders);
    const { id } = paymentOf(await shop.orders.pay(aPayment(order, { amount: 499 })));
    await decide(id, 'dismiss');
    expect(await shop.orders.pay(verified(order))).toMatchObject({
      outcome: 'paid',
      order: { status: 'paid' },
      payment: { id, amount: 500, verified: true, outcome: 'paid', resolution: null },
    });
  });

  test('what a person had dismissed comes back to a person where it pays nothing', async () => {
    const order = await aCancelled();
    const { id } = paymentOf(await shop.orders.pay(aPayment(order)));
    await decide(id, 'dismiss');
    for (let n = 0; n < 2; n += 1)
      expect(await shop.orders.pay(verified(order))).toMatchObject({
        outcome: 'already_recorded',
        payment: { verified: true, listedFor: 'restated', resolution: null, refund: null },
      });
    expect(await isListed(id)).toBe(true);
    await decide(id, 'refund');
    const { rows } = await shop.database.query('select decisions from payments where id = $1', [id]);
    expect(rows).toMatchObject([
      {
        decisions: [
          { resolution: 'dismiss', actor: 'ann', note: 'because' },
          { resolution: 'refund', actor: 'ann', note: 'because' },
        ],
      },
    ]);
  });

  test('another amount than a person had accepted comes back to a person', async () => {
    const order = await place(shop.orders);
    const { id } = paymentOf(await shop.orders.pay(aPayment(order, { amount: 499 })));
    expect(await decide(id, 'accept')).toMatchObject({ outcome: 'resolved', isPaid: true });
    await shop.orders.pay(verified(order, { amount: 1 }));
    expect(await isListed(id)).toBe(true);
  });

  test('also where a person had decided already, once', async () => {
    const [wrong, right] = [await aCancelled(), await place(shop.orders)];
    const { id } = paymentOf(await shop.orders.pay(aPayment(wrong)));
    await decide(id, 'dismiss');
    const { providerPaymentId } = aPayment(wrong);
    for (let n = 0; n < 2; n += 1)
      expect((await shop.orders.pay(verified(right, { providerPaymentId }))).outcome).toBe(
        'payment_conflict',
      );
    expect((await shop.orders.payments(wrong.id))[0]).toMatchObject({
      listedFor: 'conflict',
      resolution: null,
    });
    expect(await isListed(id)).toBe(true);
    expect((await types(wrong.id)).filter((type) => type === 'payment.listed').length).toBe(2);
  });

  test('what a person returned in vain is shown as it is, and decided by nobody else', async () => {
    const order = await aCancelled();
    const { id } = paymentOf(await shop.orders.pay(aPayment(order)));
    await decide(id, 'refund');
    const [payment] = await shop.orders.payments(order.id);
    await record(payment?.refund?.id ?? '', { state: 'refused', reason: 'no such capture', actor: 'test' });
    expect(await shop.orders.pay(verified(order, { amount: 499 }))).toMatchObject({
      outcome: 'already_recorded',
      payment: { verified: true, amount: 499, listedFor: 'refund_failed', refund: { state: 'failed' } },
    });
    expect(await isListed(id)).toBe(true);
  });

  test.each([
    ['the right amount', 500, 'paid', { verified: true, amount: 500, listedAt: null, refund: null }],
    ['the same', 1, 'amount_mismatch', { verified: true, listedAt: null, refund: { state: 'due' } }],
  ])('in one batch with a report of a wrong amount: %s', async (_, amount, outcome, payment) => {
    const order = await place(shop.orders);
    const requests = [
      aPayment(order, { amount: 1 }),
      verified(order, { amount }),
      verified(order, { amount: 2 }),
    ];
    const answers = await Promise.all(requests.map((request) => shop.orders.pay(request)));
    expect(answers.map((answer) => answer.outcome)).toEqual(['amount_mismatch', outcome, 'already_recorded']);
    expect(await shop.orders.payments(order.id)).toMatchObject([payment]);
  });

  test('in one batch with another amount than was reported: a person is told, once', async () => {
    const order = await place(shop.orders);
    const requests = [aPayment(order), verified(order, { amount: 499 }), verified(order, { amount: 498 })];
    const answers = await Promise.all(requests.map((request) => shop.orders.pay(request)));
    expect(answers.map(({ outcome }) => outcome)).toEqual(['paid', 'already_recorded', 'already_recorded']);
    expect(await shop.orders.payments(order.id)).toMatchObject([{ amount: 499, listedFor: 'restated' }]);
    expect((await types(order.id)).filter((type) => type === 'payment.listed').length).toBe(1);
  });
});

async function aRefund(): Promise<{ order: Order; paymentId: string; refundId: string }> {
  const order = await aCancelled();
  const { id, refundId } = paymentOf(await shop.orders.pay(verified(order)));
  return { order, paymentId: id, refundId };
}
const record = (refundId: string, verdict: Parameters<typeof shop.orders.recordRefund>[1]) =>
  shop.orders.recordRefund({ refundId }, verdict);

describe('a refund', () => {
  const actor = 'test';

  test('is claimed by one process, sent, and confirmed by the webhook', async () => {
    const { order, refundId } = await aRefund();
    await shop.database.query('update refunds set try_at = clock_timestamp() where id = $1', [refundId]);
    const claims = await Promise.all(
      [shop.orders, shop.another().orders].map((orders) => orders.claimRefunds(1000)),
    );
    const ours = claims.flat().filter(({ id }) => id === refundId);
    expect(ours).toMatchObject([{ amount: 500, currency: 'EUR', provider: 'bank', sinceFirstTryMs: null }]);
    expect(await record(refundId, { state: 'sent', providerRefundId: `re ${refundId}`, actor })).toBe('sent');
    const name = { provider: 'bank', providerRefundId: `re ${refundId}` };
    expect(
      await shop.orders.recordRefund(name, { state: 'confirmed', providerRefundId: `re ${refundId}`, actor }),
    ).toBe('confirmed');
    expect(
      await record(refundId, { state: 'sent', providerRefundId: `re ${refundId}`, actor }),
    ).toBeUndefined();
    expect((await types(order.id)).slice(-3)).toEqual([
      'payment.refund_due',
      'refund.sent',
      'refund.confirmed',
    ]);
  });

  test('that was refused, sent again, and told to have arrived at first is not sent again', async () => {
    const { order, paymentId, refundId } = await aRefund();
    await record(refundId, { state: 'refused', reason: 'no balance', actor });
    await decide(paymentId, 'refund');
    const providerRefundId = `re ${refundId}`;
    expect(await record(refundId, { state: 'confirmed', providerRefundId, actor })).toBe('confirmed');
    const [payment] = await shop.orders.payments(order.id);
    expect(payment?.refund).toMatchObject({ state: 'confirmed' });
    expect((await shop.orders.claimRefunds(1000)).some(({ id }) => id === payment?.refund?.id)).toBe(false);
  });

  test('that was confirmed and comes back from the bank days later is shown to a person', async () => {
    const { order, paymentId, refundId } = await aRefund();
    await record(refundId, { state: 'confirmed', providerRefundId: `re ${refundId}`, actor });
    expect(await record(refundId, { state: 'refused', reason: 'account closed', actor })).toBe('failed');
    expect(await isListed(paymentId)).toBe(true);
    const providerRefundId = `re ${refundId}`;
    const again = { state: 'confirmed', providerRefundId, actor } as const;
    expect(await record(refundId, again)).toBeUndefined();
    // Nor does it end the refund that a person sends instead.
    await decide(paymentId, 'refund');
    expect(await record(refundId, again)).toBeUndefined();
    const [due] = await shop.orders.payments(order.id);
    expect(due?.refund).toMatchObject({ state: 'due' });
  });

  test('that was refused, and had arrived all the same, leaves the work list', async () => {
    const { order, paymentId, refundId } = await aRefund();
    await record(refundId, { state: 'refused', reason: 'no balance', actor });
    const confirmed = { state: 'confirmed', providerRefundId: `re ${refundId}`, actor } as const;
    expect(await record(refundId, confirmed)).toBe('confirmed');
    expect(await isListed(paymentId)).toBe(false);
    const [payment] = await shop.orders.payments(order.id);
    expect(payment).toMatchObject({
      resolution: 'refund',
      resolvedBy: actor,
      refund: { state: 'confirmed' },
    });
    expect((await types(order.id)).slice(-2)).toEqual(['refund.failed', 'refund.confirmed']);
  });

  test('that was refused and that a person has seen to stays as it is', async () => {
    const { paymentId, refundId } = await aRefund();
    await record(refundId, { state: 'refused', reason: 'no balance', actor });
    await decide(paymentId, 'dismiss');
    const confirmed = { state: 'confirmed', providerRefundId: `re ${refundId}`, actor } as const;
    expect(await record(refundId, confirmed)).toBeUndefined();
  });

  test('is not failed by the failure of another one that its provider made before', async () => {
    const { refundId } = await aRefund();
    await record(refundId, { state: 'sent', providerRefundId: 're second', actor });
    const failed = { state: 'refused', reason: 'closed account', actor } as const;
    expect(await record(refundId, { ...failed, providerRefundId: 're first' })).toBeUndefined();
    expect(await record(refundId, { ...failed, providerRefundId: 're second' })).toBe('failed');
  });

  test('that is sent again under a new key while it is told to have arrived is not sent again', async () => {
    const { order, paymentId, refundId } = await aRefund();
    await record(refundId, { state: 'refused', reason: 'no balance', actor });
    const session = await shop.database.connect();
    await session.query('begin');
    await session.query('select from orders where id = $1 for update', [order.id]);
    const decided = decide(paymentId, 'refund');
    await waitFor(async () => (await waitingCount(shop.database)) > 0, { what: 'the person to wait' });
    const told = record(refundId, { state: 'confirmed', providerRefundId: `re ${refundId}`, actor });
    await waitFor(async () => (await waitingCount(shop.database)) > 1, { what: 'the provider to wait' });
    await session.query('commit');
    session.release();
    expect(await decided).toMatchObject({ outcome: 'resolved' });
    expect(await told).toBe('confirmed');
    const [payment] = await shop.orders.payments(order.id);
    expect(payment?.refund).toMatchObject({ state: 'confirmed' });
  });

  test('that was not answered is tried again, and knows since when it may have arrived', async () => {
    const { refundId } = await aRefund();
    await claim(refundId);
    expect(await record(refundId, { state: 'unknown', reason: 'timeout', actor })).toBe('due');
    await shop.database.query(
      `update refunds set first_sent_at = first_sent_at - interval '2 days' where id = $1`,
      [refundId],
    );
    const again = await claim(refundId);
    expect(again).toMatchObject({ tryCount: 2, lastReason: 'timeout' });
    expect(again.sinceFirstTryMs).toBeGreaterThan(2 * 86_400_000 - 60_000);
  });

  test('of which the provider has not told the end is asked about when somebody wants to reconcile', async () => {
    const order = await aCancelled();
    const { refundId } = paymentOf(await shop.orders.pay(verified(order, { provider: 'forgetful' })));
    const verdict = { state: 'sent', providerRefundId: `re ${order.id}`, actor: 'test' } as const;
    await shop.orders.recordRefund({ refundId }, verdict);
    const isClaimed = async () => (await shop.orders.claimRefunds(1000)).some(({ id }) => id === refundId);
    expect(await isClaimed()).toBe(false);
    await shop.orders.requestReconcile({ provider: 'another', sinceMs: 60_000 });
    expect(await isClaimed()).toBe(false);
    await shop.orders.requestReconcile({ provider: 'forgetful', sinceMs: 60_000 });
    expect(await isClaimed()).toBe(true);
  });

  test('that was refused puts its payment on the work list; sent again it goes under a new key', async () => {
    const { order, paymentId, refundId } = await aRefund();
    expect(await record(refundId, { state: 'refused', reason: 'closed account', actor })).toBe('failed');
    expect(await isListed(paymentId)).toBe(true);
    expect(await decide(paymentId, 'refund')).toMatchObject({
      outcome: 'resolved',
      payment: { resolution: 'refund', resolvedBy: 'ann', refund: { state: 'due', actor: 'ann' } },
    });
    const [payment] = await shop.orders.payments(order.id);
    expect(payment?.refund?.id).not.toBe(refundId);
    expect(await record(refundId, { state: 'unknown', reason: 'of the first try', actor })).toBeUndefined();
    await record(payment?.refund?.id ?? '', { state: 'refused', reason: 'closed account', actor });
    expect(await isListed(paymentId)).toBe(true);
    expect(await decide(paymentId, 'dismiss')).toMatchObject({ outcome: 'resolved' });
    expect(await isListed(paymentId)).toBe(false);
  });
});

async function aListed(order: Order, changes: Partial<PayRequest> = {}): Promise<string> {
  return paymentOf(await shop.orders.pay(aPayment(order, changes))).id;
}

describe('a person', () => {
  test('accepts a wrong amount: it pays its order', async () => {
    const order = await place(shop.orders);
    const id = await aListed(order, { amount: 499 });
    expect(await decide(id, 'accept')).toMatchObject({
      outcome: 'resolved',
      isPaid: true,
      payment: { outcome: 'paid', resolution: 'accept', note: 'because' },
    });
    expect(await shop.orders.find(order.id)).toMatchObject({ status: 'paid' });
    expect(await types(order.id)).toEqual([
      'order.placed',
      'payment.listed',
      'order.paid',
      'payment.resolved',
    ]);
  });

  test('accepts late money while the stock is there', async () => {
    await shop.orders.setStock('w', 2);
    const [one, two] = [await aCancelled(shop.orders, 'w'), await aCancelled(shop.orders, 'w')];
    expect(await decide(await aListed(one), 'accept')).toMatchObject({ outcome: 'resolved', isPaid: true });
    expect(await shop.orders.readStock('w')).toMatchObject({ onHand: 1, held: 0 });
    await place(shop.orders, { items: [{ sku: 'w', quantity: 1, unitAmount: 500 }] });
    expect(await decide(await aListed(two), 'accept')).toEqual({ outcome: 'out_of_stock' });
  });

  test('cannot accept what cannot pay', async () => {
    const [paid, cancelled] = [await place(shop.orders), await place(shop.orders)];
    await shop.orders.pay(aPayment(paid));
    expect(await decide(await aListed(paid, { providerPaymentId: `2 ${paid.id}` }), 'accept')).toEqual({
      outcome: 'order_already_paid',
    });
    await shop.orders.cancel({ orderId: cancelled.id, reason: 'customer', actor: 'test' });
    expect(await decide(await aListed(cancelled), 'accept')).toEqual({ outcome: 'order_was_cancelled' });
    const orderless = await shop.orders.pay(verified(paid, { orderId: null, providerPaymentId: 'whose' }));
    expect(await decide(paymentOf(orderless).id, 'accept')).toEqual({ outcome: 'orderless' });
  });

  test('decides once, also where two decide at the same time', async () => {
    const order = await aCancelled();
    const id = await aListed(order);
    const answers = await Promise.all([decide(id, 'refund'), decide(id, 'dismiss')]);
    expect(answers.map(({ outcome }) => outcome).toSorted()).toEqual(['not_listed', 'resolved']);
    expect(
      await shop.orders.decideWork({
        paymentId: '01890000-0000-7000-8000-000000000000',
        resolution: 'refund',
        note: null,
        actor: 'ann',
      }),
    ).toEqual({ outcome: 'payment_not_found' });
  });

  test('is told of a refund that fails at that moment', async () => {
    const { paymentId, refundId } = await aRefund();
    const session = await shop.database.connect();
    await session.query('begin');
    await session.query('select from payments where id = $1 for update', [paymentId]);
    const decided = decide(paymentId, 'dismiss');
    await waitFor(async () => (await waitingCount(shop.database)) > 0, { what: 'the person to wait' });
    await session.query(
      `update refunds set state = 'failed', failed_at = due_at, try_at = null where id = $1`,
      [refundId],
    );
    await session.query(
      `update payments set listed_at = recorded_at, listed_for = 'refund_failed' where id = $1`,
      [paymentId],
    );
    await session.query('commit');
    session.release();
    expect(await decided).toMatchObject({ outcome: 'resolved', payment: { resolution: 'dismiss' } });
  });

  test('waits for the order that its money gets at that moment', async () => {
    const order = await aCancelled();
    const { id } = paymentOf(
      await shop.orders.pay(verified(order, { orderId: null, providerPaymentId: 'of nobody' })),
    );
    const session = await shop.database.connect();
    await session.query('begin');
    await session.query('select from payments where id = $1 for update', [id]);
    const decided = decide(id, 'accept');
    await waitFor(async () => (await waitingCount(shop.database)) > 0, { what: 'the person to wait' });
    await session.query(
      `update payments set order_id = $2, outcome = 'late', listed_for = 'policy' where id = $1`,
      [id, order.id],
    );
    const other = await shop.database.connect();
    await other.query('begin');
    // Not for update: the payment that names it keeps its key.
    await other.query('select from orders where id = $1 for no key update', [order.id]);
    await session.query('commit');
    session.release();
    // Holding no lock of the order it would go on.
    await waitFor(async () => (await waitingCount(shop.database)) > 0, { what: 'the person to wait again' });
    await other.query('commit');
    other.release();
    expect(await decided).toMatchObject({ outcome: 'resolved', isPaid: true });
  });

  test('sends back what nobody verified', async () => {
    const order = await aCancelled();
    expect(await decide(await aListed(order), 'refund')).toMatchObject({
      payment: { verified: false, refund: { state: 'due', actor: 'ann' } },
    });
  });
});
