import { describe, expect, test } from 'vitest';

import {
  atProvider,
  begin,
  commitAttempt,
  countOf,
  endClaims,
  endTime,
  killWorker,
  prepareMoneyStages,
  untilAttempt,
  untilPaid,
  untilRefund,
  type Begun,
  type MoneyStage,
} from './money-stage.ts';
import { story, untilLapsed } from './stage.ts';

// No api runs here, so every webhook is lost: what a killed worker left undone another worker finds by itself. The claims
// of the killed are ended by hand, not waited for.

const stages = prepareMoneyStages();

const placed = ['order.placed', 'attempt.opened'];
const fenced = [...placed, 'order.closing'];

/** An order whose time is over, with an attempt open. */
async function due(stage: MoneyStage, behaviour?: Parameters<typeof begin>[1]): Promise<Begun> {
  const begun = await begin(stage, behaviour);
  await endTime(stage, begun.order.id);
  return begun;
}

/** An order that was paid in another way while an attempt is open. */
async function paidElsewhere(stage: MoneyStage, behaviour?: Parameters<typeof begin>[1]): Promise<Begun> {
  const begun = await begin(stage, behaviour);
  const { id: orderId, amount, currency } = begun.order;
  const money = { provider: 'bank', providerPaymentId: orderId, amount, currency, verified: false };
  expect((await stage.orders.pay({ orderId, ...money, actor: 'test' })).outcome).toBe('paid');
  return begun;
}

/** An order that its customer cancelled while an attempt is open. */
async function cancelled(stage: MoneyStage, behaviour?: Parameters<typeof begin>[1]): Promise<Begun> {
  const begun = await begin(stage, behaviour);
  await stage.orders.cancel({ orderId: begun.order.id, reason: 'customer', actor: 'test' });
  return begun;
}

function payAtProvider({ sandbox }: MoneyStage, { attempt }: Begun): void {
  expect(sandbox.pay(attempt.id)).toMatchObject({ outcome: 'paid' });
}

/** Expects that nobody can pay any more, and that there was one page only. */
function expectNoWayToPay(stage: MoneyStage, { order, attempt }: Begun): void {
  expect(atProvider(stage, order.id)).toMatchObject([{ attemptId: attempt.id, status: 'closed' }]);
  expect(stage.sandbox.pay(attempt.id)).toEqual({ outcome: 'closed' });
}

/** Expects that the order is cancelled once, after its attempt was closed. */
async function expectLapses(stage: MoneyStage, begun: Begun): Promise<void> {
  await untilLapsed(stage, begun.order.id);
  expect(await story(stage, begun.order.id)).toEqual([...fenced, 'attempt.closed', 'order.cancelled']);
  expectNoWayToPay(stage, begun);
}

/** Expects that the order is paid, once, by its attempt. */
async function expectPaidOnce(stage: MoneyStage, { order: { id } }: Begun): Promise<void> {
  await untilPaid(stage, id);
  expect(await stage.orders.payments(id)).toMatchObject([{ outcome: 'paid', refund: null }]);
  const told = await story(stage, id);
  expect([countOf(told, 'attempt.paid'), countOf(told, 'order.paid')]).toEqual([1, 1]);
}

/** Expects that the attempt is closed, once, after its order was settled otherwise. */
async function expectClosed(stage: MoneyStage, begun: Begun, settled: string): Promise<void> {
  await untilAttempt(stage, begun.order.id, 'closed');
  expect(await story(stage, begun.order.id)).toEqual([...placed, settled, 'attempt.closed']);
  expectNoWayToPay(stage, begun);
}

const closeCount = ({ sandbox }: MoneyStage): number => sandbox.counts().calls.close;

describe.concurrent('close', () => {
  test(
    'order fenced and claimed → killed → provider: another asks after the claim; cancelled, or paid if it was meanwhile',
    () =>
      stages.play(async (stage) => {
        const [unpaid, paid] = [await due(stage), await due(stage)];
        await killWorker(stage, ['close', 'before'], 2);
        for (const { order } of [unpaid, paid]) expect(await story(stage, order.id)).toEqual(fenced);
        expect(closeCount(stage)).toBe(0);
        payAtProvider(stage, paid);
        await endClaims(stage, 2);
        await stage.add('worker');
        await expectLapses(stage, unpaid);
        await expectPaidOnce(stage, paid);
      }),
    60_000,
  );

  test(
    'order settled otherwise, its attempt claimed → killed → provider: another closes it, or returns what was paid',
    () =>
      stages.play(async (stage) => {
        const [paid, left] = [await paidElsewhere(stage), await cancelled(stage)];
        const paidTwice = await paidElsewhere(stage, { refunds: 'confirmed' });
        await killWorker(stage, ['close', 'before'], 3);
        expect(closeCount(stage)).toBe(0);
        payAtProvider(stage, paidTwice);
        await endClaims(stage, 3);
        await stage.add('worker');
        await expectClosed(stage, paid, 'order.paid');
        await expectClosed(stage, left, 'order.cancelled');
        await untilRefund(stage, paidTwice.order.id, 'confirmed');
        expect((await stage.orders.find(paidTwice.order.id))?.status).toBe('paid');
      }),
    60_000,
  );

  test(
    'provider closed → killed → verdict kept: another asks again; cancelled once, or closed behind its paid order',
    () =>
      stages.play(async (stage) => {
        const [unpaid, paid] = [await due(stage), await paidElsewhere(stage)];
        await killWorker(stage, ['close', 'after'], 2);
        expect(await story(stage, unpaid.order.id)).toEqual(fenced);
        expectNoWayToPay(stage, unpaid);
        await endClaims(stage, 2);
        await stage.add('worker');
        await expectLapses(stage, unpaid);
        await expectClosed(stage, paid, 'order.paid');
        expect(closeCount(stage)).toBe(4);
      }),
    60_000,
  );

  test(
    'verdict kept, order due → killed → expire: the sweep of another cancels it, and nobody is asked again',
    () =>
      stages.play(async (stage) => {
        const unpaid = await due(stage);
        await killWorker(stage, ['recordVerdict', 'last']);
        // No further, as a rule: a sweep of its own may have been on its way to the database.
        const told = await story(stage, unpaid.order.id);
        expect(told.slice(0, fenced.length + 1)).toEqual([...fenced, 'attempt.closed']);
        await stage.add('worker');
        await expectLapses(stage, unpaid);
        expect(closeCount(stage)).toBe(1);
      }),
    60_000,
  );

  test(
    'provider says paid, closing or looking → killed → payment recorded: another asks again, and it is paid once',
    () =>
      stages.play(async (stage) => {
        const pending = await begin(stage);
        payAtProvider(stage, pending);
        expect(await stage.orders.requestReconcile({ provider: 'sandbox', sinceMs: null })).toMatchObject({
          attemptCount: 1,
        });
        const closing = await due(stage, { whenClosed: 'paid_before' });
        await killWorker(stage, ['pay', 'before'], 2);
        expect(stage.sandbox.ledger().captures).toHaveLength(2);
        for (const { order } of [closing, pending]) expect(await stage.orders.payments(order.id)).toEqual([]);
        await endClaims(stage, 2);
        await stage.add('worker');
        await expectPaidOnce(stage, closing);
        await expectPaidOnce(stage, pending);
      }),
    60_000,
  );

  test.each([
    ['the provider opened it → killed → answer kept', 'open', 'opening'],
    ['its answer to the opening kept → killed → close', 'recordOpened', 'open'],
  ])(
    'attempt that was committed only, %s: another has the same page closed',
    (_, call, state) =>
      stages.play(async (stage) => {
        const begun = await commitAttempt(stage);
        await endTime(stage, begun.order.id);
        await killWorker(stage, [call, 'after']);
        expect(atProvider(stage, begun.order.id)).toMatchObject([{ status: 'open' }]);
        expect(await stage.orders.attempts(begun.order.id)).toMatchObject([{ state }]);
        await endClaims(stage);
        await stage.add('worker');
        await expectLapses(stage, begun);
      }),
    60_000,
  );
});

/** Money that falls due to go back: it came after its order was cancelled. The provider then behaves so to its refund. */
async function lateMoney(
  stage: MoneyStage,
  refunds: 'confirmed' | 'confirmed_later' = 'confirmed',
): Promise<string> {
  const { order, attempt } = await cancelled(stage, { refunds, refundMs: Infinity });
  const taken = stage.sandbox.pay(attempt.id);
  if (taken.outcome !== 'paid') throw new Error(`it was not paid: ${taken.outcome}`);
  const { providerPaymentId, amount, currency } = taken.capture;
  const money = { provider: 'sandbox', providerPaymentId, amount, currency, verified: true };
  const paid = await stage.orders.pay({
    orderId: order.id,
    attemptId: attempt.id,
    ...money,
    actor: 'test',
  });
  expect(paid.outcome).toBe('late');
  return order.id;
}

/** Sets the refund of an order back in time, by hand: its first try, or the next one. */
async function setBack(
  { database }: MoneyStage,
  orderId: string,
  { column, by }: { column: 'first_sent_at' | 'try_at'; by: string },
): Promise<void> {
  const { rows } = await database.query(
    `update refunds set ${column} = ${column} - $2::interval
     where payment_id in (select id from payments where order_id = $1) and ${column} is not null
     returning id`,
    [orderId, by],
  );
  expect(rows).toHaveLength(1);
}

/** First sent longer ago than the provider's idempotency key is trusted for. */
const longAgo = { column: 'first_sent_at', by: '20 hours' } as const;

/** Expects that another worker brings the refunds to their end, and that all of them took so many calls. */
async function expectReturned(
  stage: MoneyStage,
  orderIds: readonly string[],
  calls: { refund: number; find: number },
): Promise<void> {
  await stage.add('worker');
  for (const orderId of orderIds) {
    await untilRefund(stage, orderId, 'confirmed');
    expect(countOf(await story(stage, orderId), 'refund.confirmed')).toBe(1);
  }
  expect(stage.sandbox.counts().calls).toMatchObject(calls);
}

describe.concurrent('refund', () => {
  test(
    'claimed → killed → provider: another sends it after the claim; long after, it is looked up first',
    () =>
      stages.play(async (stage) => {
        const [lately, old] = [await lateMoney(stage), await lateMoney(stage)];
        await killWorker(stage, ['refund', 'before'], 2);
        expect(stage.sandbox.ledger().refunds).toEqual([]);
        await setBack(stage, old, longAgo);
        await endClaims(stage, 2);
        await expectReturned(stage, [lately, old], { refund: 2, find: 1 });
      }),
    60_000,
  );

  test(
    'provider took it → killed → answer kept: another sends it under the same key; long after, it only looks it up',
    () =>
      stages.play(async (stage) => {
        const [lately, old] = [await lateMoney(stage), await lateMoney(stage)];
        await killWorker(stage, ['refund', 'after'], 2);
        for (const orderId of [lately, old])
          expect(await stage.orders.payments(orderId)).toMatchObject([{ refund: { state: 'due' } }]);
        expect(stage.sandbox.ledger().refunds).toHaveLength(2);
        await setBack(stage, old, longAgo);
        await endClaims(stage, 2);
        await expectReturned(stage, [lately, old], { refund: 3, find: 1 });
      }),
    60_000,
  );

  test(
    'sent, answer kept → killed, and the webhook of its end is lost: another asks about an hour later',
    () =>
      stages.play(async (stage) => {
        const orderId = await lateMoney(stage, 'confirmed_later');
        await killWorker(stage, ['recordRefund', 'after']);
        expect(await stage.orders.payments(orderId)).toMatchObject([{ refund: { state: 'sent' } }]);
        for (const { refundId } of stage.sandbox.ledger().refunds)
          stage.sandbox.settleRefund(refundId, 'confirmed');
        await setBack(stage, orderId, { column: 'try_at', by: '75 minutes' });
        await expectReturned(stage, [orderId], { refund: 1, find: 1 });
      }),
    60_000,
  );
});
