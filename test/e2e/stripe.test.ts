import type { Order, PaymentAttempt, PaymentResult } from '@lapse/client';
import { startStripe, waitFor, type StripeServer } from '@lapse/devstack';
import { Stripe } from 'stripe';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { startFleet, type Fleet } from './fleet.ts';

const webhookSecret = 'whsec_dGhlIGhvdXNlIGtub3dzIGl0';

/** Long enough to open an attempt in it, short enough to wait for its end. */
const shortMs = 4000;

type StripeEvent = StripeServer['events'][number];

let stripe: StripeServer;
let fleet: Fleet;
/** Orders whose webhooks are held back, and what was held. */
const held = new Map<string, StripeEvent[]>();
const deliveries = new Set<Promise<number>>();

beforeAll(async () => {
  stripe = await startStripe({
    onEvent(event) {
      const waiting = held.get(orderIn(event));
      if (waiting !== undefined) waiting.push(event);
      else deliveries.add(deliver(event));
    },
  });
  fleet = await startFleet({
    workerCount: 1,
    env: {
      LAPSE_STRIPE_API_URL: stripe.url,
      LAPSE_STRIPE_SECRET_KEY: stripe.secretKey,
      LAPSE_STRIPE_WEBHOOK_SECRET: webhookSecret,
    },
  });
  await fleet.client.setStock('mug', null);
});
afterAll(async () => {
  await expectAllTaken();
  await fleet.expectInvariants();
  await fleet.stop();
  await stripe.stop();
});

/** Every webhook that was signed is taken, whatever comes of it. */
async function expectAllTaken(): Promise<void> {
  expect(new Set(await Promise.all(deliveries))).toEqual(new Set([200]));
}

function orderIn({ body }: StripeEvent): string {
  return /"lapse_order_id":"([^"]+)"/.exec(body)?.[1] ?? '';
}

/** Sends an event as Stripe does; answers the status. */
async function deliver({ body }: Pick<StripeEvent, 'body'>, secret = webhookSecret): Promise<number> {
  const signature = Stripe.webhooks.generateTestHeaderString({ payload: body, secret });
  const response = await fetch(`${fleet.apis[0]?.url ?? ''}/hooks/stripe`, {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/json', 'stripe-signature': signature },
  });
  await response.arrayBuffer();
  return response.status;
}

/** Places an order and opens its payment at Stripe. */
async function begin({
  windowMs = 60_000,
  as = 'url',
}: { windowMs?: number; as?: 'url' | 'client_secret' } = {}): Promise<{
  order: Order;
  attempt: PaymentAttempt;
  /** Of the page, or of the PaymentIntent. */
  id: string;
}> {
  const order = await fleet.client.checkout({
    currency: 'EUR',
    items: [{ sku: 'mug', quantity: 1, unitAmount: 500 }],
    paymentWindowMs: windowMs,
  });
  const attempt = await fleet.client.openAttempt(order.id, {
    provider: 'stripe',
    as,
    ...(as === 'url' ? { returnUrl: 'https://shop.example/thanks' } : {}),
  });
  return { order, attempt, id: attempt.providerAttemptId ?? '' };
}

const payByTransfer = ({ id }: Order): Promise<PaymentResult> =>
  fleet.client.pay(id, {
    provider: 'bank',
    providerPaymentId: `transfer ${id}`,
    amount: 500,
    currency: 'EUR',
  });

const until = ({ id }: Order, status: Order['status']): Promise<Order> =>
  waitFor(
    async () => {
      const order = await fleet.client.order(id);
      return order.status === status ? order : undefined;
    },
    { what: `order ${id} to be ${status}`, timeoutMs: 20_000 },
  );

const story = async ({ id }: Order): Promise<string[]> =>
  (await fleet.client.timeline(id)).events.map(({ type }) => type);

const untilTold = (order: Order, type: string): Promise<boolean> =>
  waitFor(async () => (await story(order)).includes(type), {
    what: `${type} of order ${order.id}`,
    timeoutMs: 20_000,
  });

async function paymentsOf({ id }: Order): Promise<readonly { id: string; outcome: string }[]> {
  const { rows } = await fleet.database.query<{ id: string; outcome: string }>(
    `select provider_payment_id as id, outcome from payments where order_id = $1 and provider = 'stripe'`,
    [id],
  );
  return rows;
}

describe.concurrent("on Stripe's page", () => {
  test('who pays has bought: the signed webhook says so', async () => {
    const { order, attempt, id } = await begin();
    expect(attempt).toMatchObject({ state: 'open', provider: 'stripe', clientSecret: null });
    expect(id).toMatch(/^cs_/);
    expect(attempt.url).toBe(`${stripe.url}/c/pay/${id}`);
    expect(stripe.customers.pay(id)).toBe(true);
    await until(order, 'paid');
    expect(await fleet.client.attempts(order.id)).toMatchObject([{ id: attempt.id, state: 'paid' }]);
    expect(await paymentsOf(order)).toEqual([{ id: stripe.owner.intentIdOf(id), outcome: 'paid' }]);
  });

  test('who was declined first may try again', async () => {
    const { order, id } = await begin();
    stripe.customers.decline(id);
    await expectAllTaken();
    expect(await fleet.client.order(order.id)).toMatchObject({ status: 'pending_payment' });
    expect(stripe.customers.pay(id)).toBe(true);
    await until(order, 'paid');
  });

  test('who pays nothing loses the order: the page is expired at Stripe, then the order is cancelled', async () => {
    const { order, id } = await begin({ windowMs: shortMs });
    expect(await until(order, 'cancelled')).toMatchObject({ cancelReason: 'payment_timeout' });
    expect(stripe.calls.some(({ line }) => line === `POST /v1/checkout/sessions/${id}/expire`)).toBe(true);
    expect(stripe.customers.pay(id)).toBe(false);
    expect(await story(order)).toEqual([
      'order.placed',
      'attempt.opened',
      'order.closing',
      'attempt.closed',
      'order.cancelled',
    ]);
  });

  test('whose page expires while they are at their bank keeps the order, and buys when the bank says yes', async () => {
    const { order, id } = await begin({ windowMs: shortMs });
    stripe.customers.goToBank(id);
    stripe.owner.expirePage(id);
    await expectAllTaken();
    expect(await fleet.client.attempts(order.id)).toMatchObject([{ state: 'open' }]);
    await waitFor(async () => (await fleet.client.attempts(order.id))[0]?.verdict === 'unknown', {
      what: 'the verdict',
      timeoutMs: 20_000,
    });
    expect(await fleet.client.order(order.id)).toMatchObject({ status: 'pending_payment' });
    stripe.customers.returnFromBank(id, 'paid');
    await until(order, 'paid');
  });

  test('who pays by debit keeps the order while the money is on its way, far behind the deadline', async () => {
    const { order, id } = await begin({ windowMs: shortMs });
    stripe.customers.payLater(id, 'debit');
    await untilTold(order, 'order.closing');
    await waitFor(async () => (await fleet.client.attempts(order.id))[0]?.verdict === 'processing', {
      what: 'the verdict',
      timeoutMs: 20_000,
    });
    expect(await fleet.client.order(order.id)).toMatchObject({ status: 'pending_payment', remainingMs: 0 });
    stripe.customers.settle(id, 'paid');
    await until(order, 'paid');
  });

  test('whose debit fails loses the order', async () => {
    const { order, id } = await begin({ windowMs: shortMs });
    stripe.customers.payLater(id, 'debit');
    await untilTold(order, 'order.closing');
    stripe.customers.settle(id, 'failed');
    await until(order, 'cancelled');
    expect(await paymentsOf(order)).toEqual([]);
  });

  test('who pays while every webhook is lost has bought, because Stripe is asked first', async () => {
    const { order, id } = await begin({ windowMs: shortMs });
    held.set(order.id, []);
    stripe.customers.pay(id);
    await until(order, 'paid');
    expect(await story(order)).toContain('order.closing');
    // They come in the end, and change nothing.
    for (const event of held.get(order.id) ?? []) expect(await deliver(event)).toBe(200);
    expect((await story(order)).filter((type) => type === 'order.paid').length).toBe(1);
  });

  test('the events of one capture count once, in whatever order and however often they come', async () => {
    const { order, id } = await begin();
    held.set(order.id, []);
    stripe.customers.pay(id);
    const events = (held.get(order.id) ?? []).toReversed();
    expect(events.map(({ type }) => type)).toEqual(
      expect.arrayContaining(['checkout.session.completed', 'payment_intent.succeeded', 'charge.succeeded']),
    );
    const answers = await Promise.all([...events, ...events].map((event) => deliver(event)));
    expect(new Set(answers)).toEqual(new Set([200]));
    await until(order, 'paid');
    expect((await paymentsOf(order)).length).toBe(1);
    expect((await story(order)).filter((type) => /^(order\.paid|payment)/.test(type))).toEqual([
      'order.paid',
    ]);
  });

  test('a webhook that somebody else signed is refused, and nothing changes', async () => {
    const { order, id } = await begin();
    held.set(order.id, []);
    stripe.customers.pay(id);
    const told = held.get(order.id)?.find(({ type }) => type === 'checkout.session.completed');
    expect(await deliver({ body: told?.body ?? '' }, 'whsec_bm90IG91cnM=')).toBe(401);
    expect(await fleet.client.order(order.id)).toMatchObject({ status: 'pending_payment' });
    expect(await deliver({ body: told?.body ?? '' })).toBe(200);
    await until(order, 'paid');
  });
});

describe.concurrent('by a form in the shop', () => {
  test('who pays has bought', async () => {
    const { order, attempt, id } = await begin({ as: 'client_secret' });
    expect(id).toMatch(/^pi_/);
    expect(attempt).toMatchObject({ url: null, clientSecret: expect.stringContaining(`${id}_secret_`) });
    expect(stripe.customers.pay(id)).toBe(true);
    await until(order, 'paid');
    expect(await paymentsOf(order)).toEqual([{ id, outcome: 'paid' }]);
  });

  test('who pays nothing loses the order, and the PaymentIntent is cancelled first', async () => {
    const { order, id } = await begin({ as: 'client_secret', windowMs: shortMs });
    await until(order, 'cancelled');
    expect(stripe.calls.some(({ line }) => line === `POST /v1/payment_intents/${id}/cancel`)).toBe(true);
    expect(stripe.customers.pay(id)).toBe(false);
  });
});

/** The end of a PaymentIntent that carries the attempt's names, as Stripe tells it. */
function cancelled(id: string, metadata: Readonly<Record<string, string>>) {
  const object = {
    id,
    object: 'payment_intent',
    amount_received: 0,
    currency: 'eur',
    status: 'canceled',
    metadata,
  };
  return {
    body: JSON.stringify({ id: 'evt_1', object: 'event', type: 'payment_intent.canceled', data: { object } }),
  };
}

test('the end of a form whose opening was not answered says nothing of the one that the customer has', async () => {
  const { order, attempt, id } = await begin({ as: 'client_secret' });
  const names = {
    lapse_attempt_id: attempt.id,
    lapse_hand_off: 'client_secret',
    lapse_order_id: order.id,
  };
  expect(await deliver(cancelled('pi_of_nobody', names))).toBe(200);
  expect(await fleet.client.attempts(order.id)).toMatchObject([{ state: 'open' }]);
  expect(await deliver(cancelled(id, names))).toBe(200);
  expect(await fleet.client.attempts(order.id)).toMatchObject([{ state: 'closed' }]);
});

test('the end of the PaymentIntent of a page ends the attempt', async () => {
  const { order, attempt } = await begin();
  const names = { lapse_attempt_id: attempt.id, lapse_order_id: order.id };
  expect(await deliver(cancelled('pi_of_the_page', names))).toBe(200);
  expect(await fleet.client.attempts(order.id)).toMatchObject([{ state: 'closed' }]);
});

/** An order that was cancelled while its customer paid, so that the money comes late; its refund is under way. */
async function payLate(): Promise<{ order: Order; refundId: string }> {
  const { order, id } = await begin();
  held.set(order.id, []);
  stripe.customers.pay(id);
  await fleet.client.cancel(order.id);
  await untilTold(order, 'refund.sent');
  const intent = stripe.owner.intentIdOf(id) ?? '';
  expect(await paymentsOf(order)).toEqual([{ id: intent, outcome: 'late' }]);
  const refunds = stripe.owner.refundsOf(intent);
  expect(refunds).toMatchObject([{ amount: 500, status: 'pending' }]);
  // The capture is told now; it is known.
  for (const event of held.get(order.id) ?? []) expect(await deliver(event)).toBe(200);
  held.delete(order.id);
  return { order, refundId: refunds[0]?.id ?? '' };
}

describe.concurrent('late money', () => {
  beforeAll(() => stripe.owner.refundsAre('pending'));

  test('goes back, and refund.updated confirms it', async () => {
    const { order, refundId } = await payLate();
    stripe.owner.settleRefund(refundId, 'succeeded');
    await untilTold(order, 'refund.confirmed');
    expect((await story(order)).filter((type) => /^(payment|refund)/.test(type))).toEqual([
      'payment.refund_due',
      'refund.sent',
      'refund.confirmed',
    ]);
  });

  test('goes back, and charge.refunded confirms it, as old versions of the API tell it', async () => {
    const { order, refundId } = await payLate();
    held.set(order.id, []);
    stripe.owner.settleRefund(refundId, 'succeeded');
    const [updated] = held.get(order.id) ?? [];
    expect(updated?.type).toBe('refund.updated');
    const refund = JSON.parse(updated?.body ?? '{}') as { data: { object: object } };
    const body = JSON.stringify({
      ...refund,
      type: 'charge.refunded',
      data: { object: { object: 'charge', refunds: { data: [refund.data.object] } } },
    });
    expect(await deliver({ body })).toBe(200);
    await untilTold(order, 'refund.confirmed');
    // The other notice of it comes, too.
    expect(await deliver({ body: updated?.body ?? '' })).toBe(200);
    expect((await story(order)).filter((type) => type === 'refund.confirmed').length).toBe(1);
  });

  test('that the bank sends back to the shop is shown to a person', async () => {
    const { order, refundId } = await payLate();
    stripe.owner.settleRefund(refundId, 'failed', 'lost_or_stolen_card');
    const item = await waitFor(
      async () => (await fleet.client.workList({ limit: 200 })).data.find((one) => one.orderId === order.id),
      { what: 'the payment on the work list', timeoutMs: 20_000 },
    );
    expect(item).toMatchObject({
      listedFor: 'refund_failed',
      refund: { state: 'failed', lastReason: 'lost_or_stolen_card' },
    });
  });

  test('of an order that was paid in another way goes back, too', async () => {
    const { order, id } = await begin();
    held.set(order.id, []);
    stripe.customers.pay(id);
    expect(await payByTransfer(order)).toMatchObject({ outcome: 'paid' });
    await untilTold(order, 'refund.sent');
    const intent = stripe.owner.intentIdOf(id) ?? '';
    expect(await paymentsOf(order)).toEqual([{ id: intent, outcome: 'duplicate' }]);
    held.delete(order.id);
    stripe.owner.settleRefund(stripe.owner.refundsOf(intent)[0]?.id ?? '', 'succeeded');
    await untilTold(order, 'refund.confirmed');
    expect(stripe.owner.refundsOf(intent).length).toBe(1);
  });
});
