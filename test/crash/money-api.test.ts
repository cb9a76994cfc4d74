import type { LapseClient } from '@lapse/client';
import { waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { expectRightBooks } from '../e2e/shop-with-sandbox.ts';
import {
  atProvider,
  begin,
  countOf,
  endTime,
  hooksOf,
  placeForMoney,
  prepareMoneyStages,
  untilAttempt,
  untilPaid,
  untilRefund,
  type MoneyStage,
} from './money-stage.ts';
import { killDuring, patienceMs, story, untilLapsed } from './stage.ts';
import type { Victim } from './victim.ts';

const stages = prepareMoneyStages();
let stage: MoneyStage;

beforeAll(async () => {
  stage = await stages.open({ apiCount: 1, workerCount: 1 });
});

afterAll(async () => {
  try {
    await expectRightBooks(stage, stage.sandbox);
  } finally {
    await stage.stop();
  }
});

interface Opening {
  readonly id: string;
  readonly attemptId: string;
}

/** Kills an api while it opens attempts, one for each behaviour of the provider. */
async function killInOpening(
  moment: string,
  ...behaviours: readonly Parameters<typeof placeForMoney>[1][]
): Promise<readonly Opening[]> {
  const victim = await stage.startVictim('api', 'open', moment);
  await victim.url();
  const orders = await Promise.all(behaviours.map((behaviour) => placeForMoney(stage, behaviour)));
  const requests = orders.map(
    ({ id }) =>
      (api: LapseClient) =>
        api.openAttempt(id, { provider: 'sandbox' }),
  );
  await killDuring(victim, ...requests);
  return Promise.all(
    orders.map(async ({ id }) => {
      const [attempt, ...others] = await stage.orders.attempts(id);
      expect(others).toEqual([]);
      expect(attempt).toMatchObject({ state: 'opening', providerAttemptId: null });
      return { id, attemptId: attempt?.id ?? '' };
    }),
  );
}

const openAgain = (id: string) => stage.client.openAttempt(id, { provider: 'sandbox' });

/** Expects that the repeated call is answered with the same attempt, the only one at the provider, and that it pays. */
async function expectOpensOnce({ id, attemptId }: Opening): Promise<void> {
  const attempt = await openAgain(id);
  expect(attempt).toMatchObject({ id: attemptId, state: 'open', url: expect.stringContaining('http') });
  const { providerAttemptId } = attempt;
  expect(atProvider(stage, id)).toMatchObject([{ attemptId, providerAttemptId, status: 'open' }]);
  expect(await openAgain(id)).toEqual(attempt);
  expect(stage.sandbox.pay(attemptId)).toMatchObject({ outcome: 'paid' });
  await untilPaid(stage, id);
}

/** Expects that the order is cancelled at its deadline, after the worker had its attempt closed at the provider. */
async function expectClosedFirst({ id, attemptId }: Opening): Promise<void> {
  await endTime(stage, id);
  await untilLapsed(stage, id);
  expect(atProvider(stage, id)).toMatchObject([{ attemptId, status: 'closed' }]);
  expect(stage.sandbox.pay(attemptId)).toEqual({ outcome: 'closed' });
  const told = ['order.placed', 'attempt.opened', 'order.closing', 'attempt.closed', 'order.cancelled'];
  expect(await story(stage, id)).toEqual(told);
}

/** Expects that an attempt that was paid, of which no webhook told, pays its order at the deadline. */
async function expectPaidAtDeadline({ id, attemptId }: Opening): Promise<void> {
  expect(stage.sandbox.pay(attemptId)).toMatchObject({ outcome: 'paid' });
  await endTime(stage, id);
  await untilPaid(stage, id);
  expect(await stage.orders.payments(id)).toMatchObject([{ outcome: 'paid', verified: true, refund: null }]);
  await untilAttempt(stage, id, 'paid');
}

/** Expects that the repeated call is refused, and that the order can be paid in another way. */
async function expectRefused({ id }: Opening): Promise<void> {
  await expect(openAgain(id)).rejects.toMatchObject({ status: 422, code: 'provider_refused' });
  await untilAttempt(stage, id, 'refused');
  const elsewhere = await stage.client.openAttempt(id, { provider: 'offline' });
  expect(elsewhere).toMatchObject({ state: 'open' });
}

const none: Opening = { id: '', attemptId: '' };

describe.concurrent('open', () => {
  test('attempt COMMIT → killed → provider: the call repeated opens it, else the worker opens and closes it', async () => {
    const [repeated = none, left = none] = await killInOpening('before', {}, {});
    expect([repeated, left].flatMap(({ id }) => atProvider(stage, id))).toEqual([]);
    await Promise.all([expectOpensOnce(repeated), expectClosedFirst(left)]);
  });

  test('provider answered → killed → answer kept: the call repeated gets it, else the worker closes or finds it paid', async () => {
    const [repeated = none, left = none, paid = none, refused = none] = await killInOpening(
      'after',
      {},
      {},
      { loseWebhookShare: 1 },
      { refuseToOpen: true },
    );
    const open = [repeated, left, paid].flatMap(({ id }) => atProvider(stage, id));
    expect(open.map(({ status }) => status)).toEqual(['open', 'open', 'open']);
    await Promise.all([
      expectOpensOnce(repeated),
      expectClosedFirst(left),
      expectPaidAtDeadline(paid),
      expectRefused(refused),
    ]);
    expect(atProvider(stage, repeated.id)[0]?.providerAttemptId).toBe(open[0]?.providerAttemptId);
  });
});

describe.concurrent('decision', () => {
  test('COMMIT → killed → answer: it stands, and nobody decides again; what goes back goes back once', async () => {
    // The provider would not return it, but would now.
    const { order, attempt } = await begin(stage, { refunds: 'refused' });
    stage.sandbox.pay(attempt.id, { amount: 99 });
    const refused = await waitFor(
      async () => (await stage.orders.payments(order.id)).find((one) => one.listedFor === 'refund_failed'),
      { what: 'the refused refund', timeoutMs: patienceMs },
    );
    stage.sandbox.setBehaviour({ refunds: 'confirmed_later' }, attempt.id);
    const [accepted, dismissed] = [await payOddly(), await payOddly()];

    const victim = await stage.startVictim('api', 'decideWork', 'after');
    await killDuring(
      victim,
      (api) => api.refundPayment(refused.id),
      (api) => api.acceptPayment(accepted.payment.id),
      (api) => api.dismissPayment(dismissed.payment.id, 'returned by hand'),
    );
    for (const { id } of [refused, accepted.payment, dismissed.payment]) {
      for (const again of [
        () => stage.client.refundPayment(id),
        () => stage.client.acceptPayment(id),
        () => stage.client.dismissPayment(id, 'again'),
      ])
        await expect(again()).rejects.toMatchObject({ status: 409, code: 'already_decided' });
    }

    await untilRefund(stage, order.id, 'confirmed');
    const returned = await story(stage, order.id);
    expect(countOf(returned, 'payment.resolved')).toBe(1);
    expect(countOf(returned, 'refund.confirmed')).toBe(1);
    const listed = ['order.placed', 'payment.listed'];
    expect(await story(stage, accepted.id)).toEqual([...listed, 'order.paid', 'payment.resolved']);
    expect(await story(stage, dismissed.id)).toEqual([...listed, 'payment.resolved']);
    expect(await stage.orders.readStock(accepted.sku)).toMatchObject({ onHand: 0, held: 0 });
    expect(await stage.orders.readStock(dismissed.sku)).toMatchObject({ onHand: 1, held: 1 });
  });
});

/** Places an order, and reports a payment of another amount: a person must decide about it. */
async function payOddly() {
  const { id, items } = await placeForMoney(stage);
  const money = { provider: 'cash', providerPaymentId: id, amount: 99, currency: 'EUR' };
  const { payment } = await stage.client.pay(id, money);
  expect(payment).toMatchObject({ listedFor: 'unverified' });
  return { id, payment, sku: items[0]?.sku ?? '' };
}

/** Has the provider tell an api that halts, kills it there, and waits until all was told again to another one. */
async function killInTelling(victim: Victim, times: number, happen: () => void): Promise<void> {
  const urls = [await victim.url(), ...stage.apis.map(({ url }) => url)];
  stage.sandbox.deliverTo(urls.map(hooksOf));
  const { failedTries } = stage.sandbox.counts().webhooks;
  happen();
  await victim.kill({ when: 'halted', times });
  await stage.sandbox.idle();
  const { webhooks } = stage.sandbox.counts();
  expect(webhooks.failedTries - failedTries).toBeGreaterThanOrEqual(times);
  expect(webhooks.givenUp).toBe(0);
}

// One after the other, and after all else: meanwhile every webhook of the sandbox goes to the api that dies first.
describe('webhook', () => {
  test('payment recorded → killed → 200: told again, recorded once; what goes back goes back once', async () => {
    const [fits, odd] = [await begin(stage), await begin(stage)];
    const victim = await stage.startVictim('api', 'pay', 'after');
    await killInTelling(victim, 2, () => {
      stage.sandbox.pay(fits.attempt.id);
      stage.sandbox.pay(odd.attempt.id, { amount: 99 });
    });
    expect(await stage.orders.payments(fits.order.id)).toMatchObject([{ outcome: 'paid', refund: null }]);
    expect(await story(stage, fits.order.id)).toEqual([
      'order.placed',
      'attempt.opened',
      'attempt.paid',
      'order.paid',
    ]);
    await untilRefund(stage, odd.order.id, 'confirmed');
    expect(await stage.orders.payments(odd.order.id)).toMatchObject([{ outcome: 'amount_mismatch' }]);
    const told = await story(stage, odd.order.id);
    expect([countOf(told, 'payment.refund_due'), countOf(told, 'attempt.paid')]).toEqual([1, 1]);
  });

  test('refund confirmed → killed → 200: told again, confirmed once', async () => {
    const { order, attempt } = await begin(stage, { refundMs: Infinity });
    stage.sandbox.pay(attempt.id, { amount: 99 });
    await untilRefund(stage, order.id, 'sent');
    const [payment] = await stage.orders.payments(order.id);
    const victim = await stage.startVictim('api', 'recordRefund', 'after');
    await killInTelling(victim, 1, () => stage.sandbox.settleRefund(payment?.refund?.id ?? '', 'confirmed'));
    await untilRefund(stage, order.id, 'confirmed');
    expect(countOf(await story(stage, order.id), 'refund.confirmed')).toBe(1);
  });
});
