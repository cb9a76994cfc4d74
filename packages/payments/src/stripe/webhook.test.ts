import { randomUUID } from 'node:crypto';
import { Stripe } from 'stripe';
import { expect, test } from 'vitest';
import type { Notice, Webhook, WebhookAnswer } from '../provider.ts';
import { readWebhook } from './webhook.ts';

const secret = 'whsec_dGhlIGhvdXNlIGtub3dzIGl0';

function event(type: string, object: object): string {
  return JSON.stringify({ id: 'evt_1', object: 'event', api_version: '2020-08-27', type, data: { object } });
}

/** A body as Stripe signs it. */
function signed(body: string, { by = secret, at = Date.now() } = {}) {
  const header = Stripe.webhooks.generateTestHeaderString({
    payload: body,
    secret: by,
    timestamp: at / 1000,
  });
  return { body: Buffer.from(body), headers: { 'stripe-signature': header } };
}

function read(webhook: Webhook, now = Date.now()): WebhookAnswer {
  return readWebhook(webhook, secret, now);
}

function noticesIn(body: string): readonly Notice[] {
  const answer = read(signed(body));
  if (answer.outcome !== 'genuine') throw new Error(`${answer.outcome}: ${answer.reason}`);
  return answer.notices;
}

const body = event('customer.created', {});

test('a webhook that is signed with our secret is genuine', () => {
  expect(read(signed(body))).toEqual({ outcome: 'genuine', notices: [] });
});

test('one that was signed up to 5 minutes ago is genuine, an older one is stale', () => {
  const at = Date.now();
  const old = signed(body, { at });
  expect(read(old, at + 300_000).outcome).toBe('genuine');
  expect(read(old, at + 301_000)).toEqual({ outcome: 'stale', reason: 'It was signed more than 300 s ago.' });
  expect(read(old, at + 600_000).outcome).toBe('stale');
});

test('one that is signed with another secret is forged, however old', () => {
  expect(read(signed(body, { by: 'whsec_other' })).outcome).toBe('forged');
  expect(read(signed(body, { by: 'whsec_other', at: 1000 })).outcome).toBe('forged');
});

test('one whose body was changed by a single byte is forged', () => {
  const { headers } = signed(body);
  expect(read({ body: Buffer.from(`${body} `), headers }).outcome).toBe('forged');
});

test('one whose time was changed is forged, not stale', () => {
  const { body: bytes, headers } = signed(body, { at: Date.now() - 3_600_000 });
  const newer = headers['stripe-signature'].replace(/^t=\d+/, `t=${Math.floor(Date.now() / 1000)}`);
  expect(read({ body: bytes, headers: { 'stripe-signature': newer } }).outcome).toBe('forged');
});

test.for([
  ['no signature, an unsigned one,', undefined],
  ['an empty signature', ''],
  ['a signature that is none', 'sha256=abc'],
  ['a signature without a time', 'v1=abc'],
  ['a signature of an older scheme', 't=1,v0=abc'],
] as const)('one with %s is forged', ([, header]) => {
  const webhook = { body: Buffer.from(body), headers: { 'stripe-signature': header } };
  expect(read(webhook).outcome).toBe('forged');
});

test('one without a body is forged', () => {
  expect(read({ ...signed(body), body: Buffer.alloc(0) }).outcome).toBe('forged');
});

test.for([
  ['no JSON', 'hello'],
  ['no event', '[]'],
  ['an event of another kind', '{"id":"evt_1","object":"v2.core.event","type":"v1.charge.succeeded"}'],
  ['an event about nothing', event('payment_intent.succeeded', {})],
  [
    'a payment of ours that does not say what was paid',
    event('checkout.session.completed', {
      id: 'cs_1',
      payment_status: 'paid',
      payment_intent: null,
      metadata: { lapse_order_id: randomUUID() },
    }),
  ],
  [
    'a payment of ours that cannot be counted',
    event('payment_intent.succeeded', {
      id: 'pi_1',
      amount_received: 550,
      currency: 'isk',
      metadata: { lapse_order_id: randomUUID() },
    }),
  ],
] as const)('one that is signed, and is %s, is malformed', ([, text]) => {
  expect(read(signed(text))).toEqual({ outcome: 'malformed', reason: expect.any(String) });
});

test('one about a page that is not ours says nothing, whatever it lacks', () => {
  const subscription = { id: 'cs_1', payment_status: 'paid', mode: 'subscription', metadata: {} };
  expect(noticesIn(event('checkout.session.completed', subscription))).toEqual([]);
});

test('one of a type that is not ours to know says nothing', () => {
  expect(noticesIn(event('invoice.paid', { id: 'in_1' }))).toEqual([]);
});

test('money that is ours is told of, though somebody edited whose it is', () => {
  const object = {
    id: 'pi_1',
    amount_received: 5000,
    currency: 'eur',
    metadata: { lapse_order_id: '1042' },
  };
  expect(noticesIn(event('payment_intent.succeeded', object))).toEqual([
    {
      kind: 'paid',
      capture: { providerPaymentId: 'pi_1', amount: 5000, currency: 'EUR' },
      attemptId: null,
      orderId: null,
      providerAttemptId: null,
    },
  ]);
});

/** What is written on a payment of ours, and whose it is. */
function writtenOn(more: Readonly<Record<string, string>> = {}) {
  const [attemptId, orderId] = [randomUUID(), randomUUID()];
  return {
    attemptId,
    orderId,
    metadata: { lapse_attempt_id: attemptId, lapse_order_id: orderId, ...more },
  };
}

test('a page that expired is closed only where nobody began to pay on it', () => {
  const { attemptId, orderId, metadata } = writtenOn();
  const expired = (payment_intent: string | null) =>
    noticesIn(
      event('checkout.session.expired', { id: 'cs_1', payment_status: 'unpaid', payment_intent, metadata }),
    );
  expect(expired(null)).toEqual([{ kind: 'closed', attemptId, orderId, providerAttemptId: 'cs_1' }]);
  expect(expired('pi_1')).toEqual([]);
});

test.for([
  ['payment_intent.succeeded', 'paid'],
  ['payment_intent.processing', 'processing'],
  ['payment_intent.canceled', 'closed'],
] as const)('%s names the attempt of a form, and not the page of a page', ([type, kind]) => {
  const [form, page] = [writtenOn({ lapse_hand_off: 'client_secret' }), writtenOn()];
  const told = ({ metadata }: ReturnType<typeof writtenOn>) =>
    noticesIn(event(type, { id: 'pi_1', amount_received: 500, currency: 'eur', metadata }));
  expect(told(form)).toMatchObject([{ kind, attemptId: form.attemptId, providerAttemptId: 'pi_1' }]);
  expect(told(page)).toMatchObject([{ kind, attemptId: page.attemptId, providerAttemptId: null }]);
});

test('refunds are read from a charge, where older API versions put them', () => {
  const [ours, byHand] = [randomUUID(), undefined].map((id, n) => ({
    id: `re_${n}`,
    object: 'refund',
    status: 'succeeded',
    metadata: id === undefined ? {} : { lapse_refund_id: id },
  }));
  const charge = { id: 'ch_1', object: 'charge', refunds: { object: 'list', data: [ours, byHand] } };
  expect(noticesIn(event('charge.refunded', charge))).toEqual([
    { kind: 'refund_confirmed', refundId: ours?.metadata.lapse_refund_id, providerRefundId: 're_0' },
  ]);
});
