import { randomUUID } from 'node:crypto';

import type { Order, PaymentResult } from '@lapse/client';
import { signedHeaders, waitFor, type SandboxBehaviour } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { apiKey } from './fleet.ts';
import { sandboxSecret, startShopWithSandbox, type ShopWithSandbox } from './shop-with-sandbox.ts';

/** Every situation of docs/money.md, by its name. Each has orders of its own, so they happen side by side. */

let shop: ShopWithSandbox;
/** How the provider behaves to the attempts of an order from the first call on. */
const script = new Map<string, Partial<SandboxBehaviour>>();
beforeAll(async () => {
  shop = await startShopWithSandbox({ script: ({ orderId }) => script.get(orderId) ?? {} });
});
afterAll(async () => {
  await shop.expectRightBooks();
  await shop.stop();
});

/** Long enough to open an attempt in it, short enough to wait for its end. */
const windowMs = 2000;

/** Sends a webhook as the provider would, or somebody who pretends to be it. */
async function hook(
  body: string,
  {
    secret = sandboxSecret,
    at = new Date(),
    headers,
  }: { secret?: string; at?: Date; headers?: Record<string, string> } = {},
): Promise<number> {
  const response = await fetch(`${shop.fleet.apis[0]?.url ?? ''}/hooks/sandbox`, {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/json', ...(headers ?? signedHeaders(secret, body, { at })) },
  });
  await response.arrayBuffer();
  return response.status;
}

function paidNotice(
  order: { id: string },
  money: { providerPaymentId?: string; amount?: number; currency?: string } = {},
): string {
  const { providerPaymentId = `cap_${order.id}`, amount = 500, currency = 'EUR' } = money;
  const data = { orderId: order.id, capture: { providerPaymentId, amount, currency } };
  return JSON.stringify({ type: 'attempt.paid', timestamp: new Date().toISOString(), data });
}

/** The refund of the only payment of an order, when it has come so far. */
function untilRefund(orderId: string, state: string): Promise<string> {
  return waitFor(
    async () => {
      const { rows } = await shop.fleet.database.query<{ id: string; state: string }>(
        `select r.id, r.state from refunds r join payments p on p.id = r.payment_id where p.order_id = $1`,
        [orderId],
      );
      expect(rows.length).toBeLessThan(2);
      return rows[0]?.state === state ? rows[0].id : undefined;
    },
    { what: `the refund of order ${orderId} to be ${state}`, timeoutMs: 20_000 },
  );
}

const attemptsAtProvider = (orderId: string) =>
  shop.sandbox.ledger().attempts.filter((attempt) => attempt.orderId === orderId);

async function refundCount(orderId: string): Promise<number> {
  const { refunds, captures } = shop.sandbox.ledger();
  const ids = new Set(captures.filter((one) => one.orderId === orderId).map((one) => one.providerPaymentId));
  return refunds.filter(({ providerPaymentId }) => ids.has(providerPaymentId)).length;
}

/** Reports that the order was paid in another way. */
function payByTransfer({ id }: { id: string }): Promise<PaymentResult> {
  const money = { amount: 500, currency: 'EUR' };
  return shop.fleet.client.pay(id, { provider: 'bank', providerPaymentId: `transfer ${id}`, ...money });
}

async function untilListed(orderId: string | null, providerPaymentId?: string) {
  return waitFor(
    async () => {
      const { data } = await shop.fleet.client.workList({ limit: 200 });
      return data.find(
        (item) =>
          item.orderId === orderId &&
          (providerPaymentId === undefined || item.providerPaymentId === providerPaymentId),
      );
    },
    { what: `a payment of order ${orderId ?? 'nobody'} on the work list`, timeoutMs: 20_000 },
  );
}

describe.concurrent('a customer', () => {
  test('who pays before the deadline has bought', async () => {
    const { order, attempt } = await shop.begin();
    expect(attempt).toMatchObject({
      state: 'open',
      provider: 'sandbox',
      url: expect.stringContaining('http'),
    });
    shop.sandbox.pay(attempt.id);
    await shop.until(order.id, 'paid');
    expect(await shop.story(order.id)).toEqual(
      expect.arrayContaining(['order.placed', 'attempt.opened', 'attempt.paid', 'order.paid']),
    );
    expect((await shop.fleet.client.attempts(order.id))[0]).toMatchObject({ state: 'paid' });
  });

  test('who does not pay loses the order, and the page is closed first', async () => {
    const { order, attempt } = await shop.begin({ windowMs });
    await shop.until(order.id, 'cancelled');
    expect(shop.sandbox.pay(attempt.id)).toEqual({ outcome: 'closed' });
    const story = await shop.story(order.id);
    expect(story.indexOf('order.closing')).toBeLessThan(story.indexOf('attempt.closed'));
    expect(story.indexOf('attempt.closed')).toBeLessThan(story.indexOf('order.cancelled'));
  });

  test('who pays at the deadline has bought, or was told that the page is closed', async () => {
    const { order, attempt } = await shop.begin({ windowMs });
    const deadline = Date.parse(order.deadlineAt ?? '');
    await waitFor(() => Date.now() >= deadline, { what: 'the deadline', timeoutMs: 10_000 });
    const { outcome } = shop.sandbox.pay(attempt.id);
    expect(['paid', 'closed']).toContain(outcome);
    await shop.until(order.id, outcome === 'paid' ? 'paid' : 'cancelled');
  });

  test('who pays after the order was cancelled gets the money back', async () => {
    const stuck = { failCount: 1000, faultyCalls: ['close'] } as const;
    const { order, attempt } = await shop.begin({ behaviour: stuck });
    await shop.fleet.client.cancel(order.id, 'merchant');
    shop.sandbox.pay(attempt.id);
    await untilRefund(order.id, 'confirmed');
    shop.sandbox.setBehaviour({ failCount: 0 }, attempt.id);
    expect(await shop.fleet.client.order(order.id)).toMatchObject({ status: 'cancelled' });
    expect(await refundCount(order.id)).toBe(1);
  });

  test('who pays twice gets the second payment back', async () => {
    const { order, attempt } = await shop.begin();
    shop.sandbox.setBehaviour({ holdWebhooks: true }, attempt.id);
    shop.sandbox.pay(attempt.id);
    // Another way, before anybody heard of the first.
    expect(await payByTransfer(order)).toMatchObject({ outcome: 'paid' });
    // The worker closes what is open, and is told of the capture.
    await untilRefund(order.id, 'confirmed');
    expect(await refundCount(order.id)).toBe(1);
  });

  test.each([
    ['too little', { amount: 499 }],
    ['too much', { amount: 501 }],
    ['in another currency', { currency: 'CHF' }],
  ])('who pays %s gets all of it back, and may pay again', async (_, money) => {
    const { order, attempt } = await shop.begin();
    shop.sandbox.pay(attempt.id, money);
    await untilRefund(order.id, 'confirmed');
    expect(await shop.fleet.client.order(order.id)).toMatchObject({ status: 'pending_payment' });
    const again = await shop.open(order.id);
    expect(again.id).not.toBe(attempt.id);
    shop.sandbox.pay(again.id);
    await shop.until(order.id, 'paid');
  });

  test('who loads the page twice finds the same attempt', async () => {
    const { order, attempt } = await shop.begin();
    expect(await shop.open(order.id)).toEqual(attempt);
  });

  test('with the page of an old attempt cannot pay there', async () => {
    const { order, attempt: old } = await shop.begin();
    shop.sandbox.startPaying(old.id);
    shop.sandbox.settle(old.id, 'closed');
    await shop.untilTold(order.id, 'attempt.closed');
    const next = await shop.open(order.id);
    expect(shop.sandbox.pay(old.id)).toEqual({ outcome: 'closed' });
    // Its notice comes once more: the order is not the attempt.
    shop.sandbox.pay(next.id);
    await shop.until(order.id, 'paid');
  });

  test('who cancels while the order is being closed has cancelled; what was paid goes back', async () => {
    const { order, attempt } = await shop.begin({
      windowMs,
      behaviour: { failCount: 1000, faultyCalls: ['close'] },
    });
    await shop.untilTold(order.id, 'order.closing');
    expect(await shop.fleet.client.cancel(order.id)).toMatchObject({
      status: 'cancelled',
      cancelReason: 'customer',
    });
    shop.sandbox.pay(attempt.id);
    await untilRefund(order.id, 'confirmed');
    shop.sandbox.setBehaviour({ failCount: 0 }, attempt.id);
    expect(await refundCount(order.id)).toBe(1);
  });
});

describe.concurrent('a provider', () => {
  test('that says paid while it closes has its order paid, though no webhook told', async () => {
    const { order } = await shop.begin({ windowMs, behaviour: { whenClosed: 'paid_before' } });
    expect(await shop.until(order.id, 'paid')).toMatchObject({ cancelledAt: null });
  });

  test('of which answer and webhook of a payment race has its order paid once', async () => {
    const { order } = await shop.begin({
      windowMs,
      behaviour: { whenClosed: 'paid_now', doubleWebhookShare: 1 },
    });
    await shop.until(order.id, 'paid');
    await shop.sandbox.idle();
    const story = await shop.story(order.id);
    expect(story.filter((type) => type === 'order.paid').length).toBe(1);
    expect(story).not.toContain('payment.refund_due');
  });

  test.each([
    ['processing_then_paid', 'paid'],
    ['processing_then_closed', 'cancelled'],
  ] as const)('that is processing for days holds the order: %s', async (whenClosed, status) => {
    const { order, attempt } = await shop.begin({ windowMs, behaviour: { whenClosed } });
    await waitFor(async () => (await shop.fleet.client.attempts(order.id))[0]?.verdict === 'processing', {
      what: 'the verdict',
      timeoutMs: 20_000,
    });
    expect(await shop.fleet.client.order(order.id)).toMatchObject({
      status: 'pending_payment',
      remainingMs: 0,
    });
    shop.sandbox.settle(attempt.id, status === 'paid' ? 'paid' : 'closed');
    await shop.until(order.id, status);
  });

  test('that is down holds the order until it answers', async () => {
    const { order, attempt } = await shop.begin({
      windowMs,
      behaviour: { failCount: 2, faultyCalls: ['close'] },
    });
    await waitFor(async () => (await shop.fleet.client.attempts(order.id))[0]?.verdict === 'unknown', {
      what: 'the verdict',
      timeoutMs: 20_000,
    });
    await shop.until(order.id, 'cancelled');
    expect(shop.sandbox.pay(attempt.id)).toEqual({ outcome: 'closed' });
  });

  test('whose answer to the opening was lost is asked to open the same attempt again', async () => {
    const order = await shop.place();
    script.set(order.id, { faultyCalls: ['open'], loseAnswerShare: 1 });
    await expect(shop.open(order.id)).rejects.toMatchObject({ status: 503, code: 'unavailable' });
    const [opening] = await shop.fleet.client.attempts(order.id);
    expect(opening).toMatchObject({ state: 'opening', providerAttemptId: null });
    shop.sandbox.setBehaviour({ loseAnswerShare: 0 }, opening?.id);
    expect(await shop.open(order.id)).toMatchObject({ id: opening?.id, state: 'open' });
    expect(attemptsAtProvider(order.id).length).toBe(1);
  });

  test('whose answer to the opening was lost has the attempt closed before the order is cancelled', async () => {
    const order = await shop.place({ windowMs });
    script.set(order.id, { faultyCalls: ['open'], loseAnswerShare: 1 });
    await expect(shop.open(order.id)).rejects.toMatchObject({ code: 'unavailable' });
    const [opening] = await shop.fleet.client.attempts(order.id);
    shop.sandbox.setBehaviour({ loseAnswerShare: 0 }, opening?.id);
    await shop.until(order.id, 'cancelled');
    expect(attemptsAtProvider(order.id)).toMatchObject([{ status: 'closed' }]);
  });

  test('that refuses to open is named, and the order can be paid elsewhere', async () => {
    const order = await shop.place();
    script.set(order.id, { refuseToOpen: true });
    await expect(shop.open(order.id)).rejects.toMatchObject({ status: 422, code: 'provider_refused' });
    expect((await shop.fleet.client.attempts(order.id))[0]).toMatchObject({ state: 'refused' });
    const elsewhere = await shop.fleet.client.openAttempt(order.id, { provider: 'offline' });
    expect(elsewhere).toMatchObject({ state: 'open', url: null, instructions: expect.any(String) });
  });

  test('that refuses what it did not answer before is asked to open another attempt at once', async () => {
    const order = await shop.place();
    script.set(order.id, { faultyCalls: ['open'], failShare: 1 });
    await expect(shop.open(order.id)).rejects.toMatchObject({ status: 503, code: 'unavailable' });
    const [opening] = await shop.fleet.client.attempts(order.id);
    script.set(order.id, {});
    shop.sandbox.setBehaviour({ failShare: 0, refuseToOpen: true }, opening?.id);
    const opened = await shop.open(order.id);
    expect(opened.state).toBe('open');
    expect((await shop.fleet.client.attempts(order.id)).map(({ id, state }) => [id, state])).toEqual([
      [opening?.id, 'refused'],
      [opened.id, 'open'],
    ]);
  });

  test('that is not connected is named, beside those that are', async () => {
    const { id } = await shop.place();
    await expect(shop.fleet.client.openAttempt(id, { provider: 'nobody' })).rejects.toMatchObject({
      code: 'invalid_request',
      errors: [{ field: 'provider', message: 'must be one of offline, sandbox' }],
    });
  });
});

describe.concurrent('a webhook', () => {
  test('that is lost is made up for by the question before the order is cancelled', async () => {
    const { order, attempt } = await shop.begin({ windowMs, behaviour: { loseWebhookShare: 1 } });
    shop.sandbox.pay(attempt.id);
    expect(await shop.until(order.id, 'paid')).toMatchObject({ cancelledAt: null });
  });

  test('that is late, doubled, or overtaken changes nothing', async () => {
    const { order, attempt } = await shop.begin({ behaviour: { holdWebhooks: true, doubleWebhookShare: 1 } });
    shop.sandbox.startPaying(attempt.id);
    shop.sandbox.settle(attempt.id, 'paid');
    await shop.sandbox.deliverHeld({ reversed: true });
    await shop.until(order.id, 'paid');
    await shop.sandbox.idle();
    const story = await shop.story(order.id);
    expect(story.filter((type) => type === 'order.paid').length).toBe(1);
  });

  test('that is forged, unsigned, or signed for another body is refused, and nothing changes', async () => {
    const order = await shop.place();
    const body = paidNotice(order);
    const other = `whsec_${Buffer.alloc(32, 'somebody').toString('base64')}`;
    expect(await hook(body, { secret: other })).toBe(401);
    expect(await hook(body, { headers: {} })).toBe(401);
    expect(await hook(body.replace('500', '501'), { headers: signedHeaders(sandboxSecret, body) })).toBe(401);
    // The key of the API is none for this door.
    expect(await hook(body, { headers: { authorization: `Bearer ${apiKey}` } })).toBe(401);
    expect(await shop.story(order.id)).toEqual(['order.placed']);
  });

  test('that is replayed after 10 minutes is refused, and nothing changes', async () => {
    const order = await shop.place();
    expect(await hook(paidNotice(order), { at: new Date(Date.now() - 600_000) })).toBe(400);
    expect(await hook(paidNotice(order), { at: new Date(Date.now() + 600_000) })).toBe(400);
    expect(await shop.story(order.id)).toEqual(['order.placed']);
  });

  test('that is signed and makes no sense is refused', async () => {
    expect(await hook('not json')).toBe(400);
    expect(await hook('{"type":"attempt.paid","data":{}}')).toBe(400);
    expect(await hook('')).toBe(400);
    const unknown = await fetch(`${shop.fleet.apis[0]?.url ?? ''}/hooks/nobody`, {
      method: 'POST',
      body: '{}',
    });
    expect(unknown.status).toBe(404);
    await unknown.arrayBuffer();
  });

  test('of a payment for an unknown order puts it on the work list', async () => {
    const id = randomUUID();
    expect(await hook(paidNotice({ id }))).toBe(200);
    expect(await untilListed(null, `cap_${id}`)).toMatchObject({ outcome: 'orderless', verified: true });
  });

  test('of the same capture under three names counts once', async () => {
    const { order, attempt } = await shop.begin();
    const paid = shop.sandbox.pay(attempt.id);
    if (paid.outcome !== 'paid') throw new Error('not paid');
    const { providerPaymentId } = paid.capture;
    const bodies = [{ attemptId: attempt.id }, { providerAttemptId: attempt.providerAttemptId }, {}].map(
      (named) =>
        JSON.stringify({
          type: 'attempt.paid',
          timestamp: new Date().toISOString(),
          data: { orderId: order.id, ...named, capture: { providerPaymentId, amount: 500, currency: 'EUR' } },
        }),
    );
    expect(await Promise.all(bodies.map((body) => hook(body)))).toEqual([200, 200, 200]);
    await shop.until(order.id, 'paid');
    expect((await shop.story(order.id)).filter((type) => /^(order\.paid|payment)/.test(type))).toEqual([
      'order.paid',
    ]);
  });
});

/** A capture that the order cannot use: its order was paid otherwise. */
async function duplicate(behaviour: Parameters<typeof shop.begin>[0] = {}): Promise<Order> {
  const { order, attempt } = await shop.begin(behaviour);
  await payByTransfer(order);
  shop.sandbox.pay(attempt.id);
  return order;
}

describe.concurrent('a refund', () => {
  test('that the provider refuses is shown to a person', async () => {
    const order = await duplicate({ behaviour: { refunds: 'refused' } });
    const listed = await untilListed(order.id);
    expect(listed).toMatchObject({ listedFor: 'refund_failed', refund: { state: 'failed' } });
    expect(await shop.fleet.client.dismissPayment(listed.id, 'returned by transfer')).toMatchObject({
      resolution: 'dismiss',
    });
  });

  test('of money that the provider does not know is shown to a person', async () => {
    const order = await shop.place({ windowMs: 1000 });
    await shop.until(order.id, 'cancelled');
    expect(await hook(paidNotice(order, { providerPaymentId: `late ${order.id}` }))).toBe(200);
    expect(await untilListed(order.id)).toMatchObject({ outcome: 'late', listedFor: 'refund_failed' });
  });

  test('that fails days later is shown to a person', async () => {
    const order = await duplicate({ behaviour: { refunds: 'failed_later' } });
    expect(await untilListed(order.id)).toMatchObject({ listedFor: 'refund_failed' });
  });

  test('of which the answer is lost goes back once', async () => {
    const { order, attempt } = await shop.begin();
    shop.sandbox.setBehaviour({ faultyCalls: ['refund'], loseAnswerShare: 0.5 }, attempt.id);
    await payByTransfer(order);
    shop.sandbox.pay(attempt.id);
    await untilRefund(order.id, 'confirmed');
    expect(await refundCount(order.id)).toBe(1);
  });

  test('that times out with 503 is tried again', async () => {
    const order = await duplicate({ behaviour: { faultyCalls: ['refund'], failCount: 2 } });
    await untilRefund(order.id, 'confirmed');
    expect(await refundCount(order.id)).toBe(1);
  });

  test('that is answered twice is confirmed once', async () => {
    const order = await duplicate({ behaviour: { refunds: 'confirmed_twice', doubleWebhookShare: 1 } });
    await untilRefund(order.id, 'confirmed');
    await shop.sandbox.idle();
    expect((await shop.story(order.id)).filter((type) => type === 'refund.confirmed').length).toBe(1);
  });

  test('that a person asks for goes the same way', async () => {
    const order = await shop.place({ windowMs: 1000 });
    await shop.until(order.id, 'cancelled');
    const { payment } = await shop.fleet.client.pay(order.id, {
      provider: 'offline',
      providerPaymentId: `cash ${order.id}`,
      amount: 500,
      currency: 'EUR',
    });
    expect(payment).toMatchObject({ listedFor: 'unverified' });
    await shop.fleet.client.refundPayment(payment.id, 'the customer asked');
    // Nobody can return cash over the wire: it comes back to the list, with the reason.
    expect(await untilListed(order.id)).toMatchObject({ listedFor: 'refund_failed', resolution: null });
    await expect(shop.fleet.client.acceptPayment(randomUUID())).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe.concurrent('while an order is being closed', () => {
  const stuck = { failCount: 1000, faultyCalls: ['close'] } as const;

  test('it cannot be extended, and no attempt is opened', async () => {
    const { order, attempt } = await shop.begin({ windowMs, behaviour: stuck });
    await shop.untilTold(order.id, 'order.closing');
    await expect(shop.fleet.client.extend(order.id, { byMs: 60_000 })).rejects.toMatchObject({
      status: 409,
      code: 'order_closing',
    });
    await expect(shop.fleet.client.openAttempt(order.id, { provider: 'offline' })).rejects.toMatchObject({
      code: 'order_closing',
    });
    shop.sandbox.setBehaviour({ failCount: 0 }, attempt.id);
    await shop.until(order.id, 'cancelled');
  });

  test('a freeze holds it, also when its attempt is closed; the thaw gives its time back', async () => {
    const channel = `frozen ${randomUUID()}`;
    const { order } = await shop.begin({
      windowMs,
      behaviour: { slowMs: 3000, faultyCalls: ['close'], loseWebhookShare: 1 },
      channel,
    });
    await shop.untilTold(order.id, 'order.closing');
    const api = shop.fleet.apis[0]?.url ?? '';
    const call = async (path: string, body?: object): Promise<{ id: string }> => {
      const response = await fetch(`${api}${path}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
        body: JSON.stringify(body ?? {}),
      });
      expect(response.status).toBeLessThan(300);
      return (await response.json()) as { id: string };
    };
    const { id } = await call('/v1/freezes', { scope: { channel }, reason: 'test' });
    await shop.untilTold(order.id, 'attempt.closed');
    expect(await shop.fleet.client.order(order.id)).toMatchObject({ status: 'pending_payment' });
    await call(`/v1/freezes/${id}/thaw`);
    await shop.untilTold(order.id, 'order.thawed');
    await shop.until(order.id, 'cancelled');
    const { events } = await shop.fleet.client.timeline(order.id);
    const thawed = events.find(({ type }) => type === 'order.thawed');
    expect(Date.parse(String(thawed?.data['to']))).toBeGreaterThan(Date.parse(order.deadlineAt ?? ''));
  });
});
