import { randomUUID } from 'node:crypto';
import { startStripe, waitFor, type StripeFault, type StripeServer } from '@lapse/devstack';
import { createLog } from '@lapse/runtime';
import { Stripe } from 'stripe';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { AttemptToOpen, Notice, PaymentProvider, RefundToSend } from './provider.ts';
import { stripeProvider } from './stripe.ts';

const log = createLog('stripe-test', 'silent');
const webhookSecret = 'whsec_dGhlIGhvdXNlIGtub3dzIGl0';
const minuteMs = 60_000;
const hourMs = 60 * minuteMs;

let server: StripeServer;
let stripe: PaymentProvider;

beforeAll(async () => {
  server = await startStripe();
  stripe = providerAt(server);
});

afterAll(() => server.stop());

function providerAt({ url, secretKey }: { url: string; secretKey: string }, timeoutMs?: number) {
  return stripeProvider({ secretKey, webhookSecret, apiUrl: url, log, ...(timeoutMs && { timeoutMs }) });
}

/** A UUIDv7 of some time. */
function uuidv7(at = Date.now()): string {
  const time = at.toString(16).padStart(12, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`;
}

function newAttempt(overrides: Partial<AttemptToOpen> = {}): AttemptToOpen {
  return {
    attemptId: uuidv7(),
    orderId: uuidv7(),
    amount: 5000,
    currency: 'EUR',
    payBy: new Date(Date.now() + 2 * hourMs),
    handOff: 'url',
    returnUrl: 'https://shop.example/orders/1042',
    description: 'Order 1042',
    ...overrides,
  };
}

/** An attempt that Stripe has opened. */
async function open(overrides: Partial<AttemptToOpen> = {}) {
  const attempt = newAttempt(overrides);
  const answer = await stripe.open(attempt);
  if (answer.outcome !== 'opened') throw new Error(`not opened: ${answer.reason}`);
  const { attemptId, orderId } = attempt;
  return { ...answer, attemptId, orderId, id: answer.providerAttemptId };
}

const openForm = () => open({ handOff: 'client_secret', returnUrl: null });

/** A page whose order was paid, and the refund that is to return the money. */
async function paidPage() {
  const attempt = await open();
  server.customers.pay(attempt.id);
  const providerPaymentId = server.owner.intentIdOf(attempt.id) ?? '';
  return { ...attempt, providerPaymentId, refund: refundOf(providerPaymentId, attempt.orderId) };
}

function refundOf(providerPaymentId: string, orderId: string | null = null): RefundToSend {
  return { refundId: uuidv7(), orderId, providerPaymentId, amount: 5000, currency: 'EUR' };
}

/** The calls that arrived under an idempotency key, or its successors. */
function callsUnder(key: string) {
  return server.calls.filter(({ idempotencyKey }) => idempotencyKey?.startsWith(key));
}

describe('open', () => {
  test('a page asks for the whole amount once, and names the order and the attempt', async () => {
    const attempt = newAttempt();
    const answer = await stripe.open(attempt);
    expect(answer).toEqual({
      outcome: 'opened',
      providerAttemptId: expect.stringMatching(/^cs_/),
      handOff: { url: expect.stringContaining('/c/pay/cs_') },
    });
    const [call] = callsUnder(attempt.attemptId);
    expect(call).toMatchObject({
      line: 'POST /v1/checkout/sessions',
      idempotencyKey: attempt.attemptId,
      apiVersion: Stripe.API_VERSION,
    });
    expect(Object.fromEntries(call?.params ?? [])).toEqual({
      mode: 'payment',
      ui_mode: 'hosted_page',
      client_reference_id: attempt.orderId,
      'line_items[0][quantity]': '1',
      'line_items[0][price_data][currency]': 'eur',
      'line_items[0][price_data][unit_amount]': '5000',
      'line_items[0][price_data][product_data][name]': 'Order 1042',
      success_url: attempt.returnUrl,
      cancel_url: attempt.returnUrl,
      expires_at: String(Math.ceil((attempt.payBy?.getTime() ?? 0) / 1000)),
      'metadata[lapse_attempt_id]': attempt.attemptId,
      'metadata[lapse_order_id]': attempt.orderId,
      'payment_intent_data[description]': 'Order 1042',
      'payment_intent_data[metadata][lapse_attempt_id]': attempt.attemptId,
      'payment_intent_data[metadata][lapse_order_id]': attempt.orderId,
    });
  });

  test('a form gets the secret of a payment that takes what the account takes', async () => {
    const attempt = newAttempt({ handOff: 'client_secret', returnUrl: null });
    const answer = await stripe.open(attempt);
    expect(answer).toEqual({
      outcome: 'opened',
      providerAttemptId: expect.stringMatching(/^pi_/),
      handOff: { clientSecret: expect.stringMatching(/^pi_.+_secret_/) },
    });
    const [call] = callsUnder(attempt.attemptId);
    expect(call).toMatchObject({ line: 'POST /v1/payment_intents', idempotencyKey: attempt.attemptId });
    expect(Object.fromEntries(call?.params ?? [])).toEqual({
      amount: '5000',
      currency: 'eur',
      'automatic_payment_methods[enabled]': 'true',
      description: 'Order 1042',
      'metadata[lapse_attempt_id]': attempt.attemptId,
      'metadata[lapse_hand_off]': 'client_secret',
      'metadata[lapse_order_id]': attempt.orderId,
    });
  });

  test.for(['url', 'client_secret'] as const)(
    'the same attempt opened again is the same one at Stripe (%s)',
    async (handOff) => {
      const attempt = newAttempt({ handOff });
      const first = await stripe.open(attempt);
      expect(await stripe.open({ ...attempt })).toEqual(first);
      expect(first.outcome).toBe('opened');
    },
  );

  test('where the answer is lost, opening again finds the page that was opened', async () => {
    const attempt = newAttempt();
    // The library asks once more by itself when a connection is cut.
    server.misbehave(/POST .*sessions$/, 'cut', 2);
    expect(await stripe.open(attempt)).toMatchObject({ outcome: 'unknown', isProviderWell: false });
    const again = await stripe.open(attempt);
    expect(again.outcome).toBe('opened');
    expect(await stripe.open(attempt)).toEqual(again);
    expect(new Set(callsUnder(attempt.attemptId).map(({ idempotencyKey }) => idempotencyKey))).toEqual(
      new Set([attempt.attemptId]),
    );
  });

  test('where a process dies before it hears the answer, another one opens the same page', async () => {
    const attempt = newAttempt();
    const dying = providerAt(server, 200);
    server.misbehave(/POST .*sessions$/, 'silent');
    expect(await dying.open(attempt)).toMatchObject({ outcome: 'unknown' });
    await waitFor(() => callsUnder(attempt.attemptId).length === 1, { what: 'the call to arrive' });
    const answer = await providerAt(server).open(attempt);
    if (answer.outcome !== 'opened') throw new Error(answer.outcome);
    const { attemptId, orderId } = attempt;
    const opened = { attemptId, orderId, providerAttemptId: answer.providerAttemptId };
    expect(server.customers.pay(answer.providerAttemptId)).toBe(true);
    expect(await stripe.close(opened)).toMatchObject({ verdict: 'paid' });
  });

  test('a 500 that Stripe repeats for a day does not hold the attempt up for a day', async () => {
    const attempt = newAttempt();
    server.misbehave(/POST .*sessions$/, 'breaks');
    expect(await stripe.open(attempt)).toMatchObject({ outcome: 'unknown', isProviderWell: false });
    const again = await stripe.open(attempt);
    expect(again.outcome).toBe('opened');
    expect(await stripe.open(attempt)).toEqual(again);
    const { attemptId } = attempt;
    expect(
      callsUnder(attemptId).map(({ idempotencyKey }) => idempotencyKey?.slice(attemptId.length)),
    ).toEqual(['', '', '-2', '', '-2']);
  });

  test('the same attempt with other parameters is unknown: it may be open', async () => {
    const attempt = newAttempt();
    await stripe.open(attempt);
    expect(await stripe.open({ ...attempt, amount: 6000 })).toMatchObject({
      outcome: 'unknown',
      isProviderWell: true,
      reason: expect.stringMatching(
        /sent to Stripe before, with other parameters: .*\(400, idempotency_error, req_/,
      ),
    });
  });

  test.for([
    ['less than Stripe takes', { amount: 1 }, /at least 50 cents.*amount_too_small/],
    ['more than Stripe takes', { amount: 100_000_000 }, /amount_too_large/],
    ['a currency that Stripe does not take', { currency: 'XTS' }, /Invalid currency: xts/],
    ['a currency that cannot be counted', { currency: 'IQD' }, /not known how Stripe counts IQD/],
    ['an amount that Stripe cannot count', { currency: 'KWD', amount: 5001 }, /third decimal of KWD/],
    ['no address to return to', { returnUrl: null }, /needs a returnUrl/],
    ['an address that is none', { returnUrl: 'shop' }, /Not a valid URL.*url_invalid/],
  ] as const)('%s is refused', async ([, overrides, reason]) => {
    expect(await stripe.open(newAttempt(overrides))).toEqual({
      outcome: 'refused',
      reason: expect.stringMatching(reason),
    });
  });
});

describe('the life of a page', () => {
  test.for([1, 10, 40, 3 * 24 * 60])('Stripe takes a deadline in %i minutes', async (minutes) => {
    const payBy = new Date(Date.now() + minutes * minuteMs);
    expect(await stripe.open(newAttempt({ payBy }))).toMatchObject({ outcome: 'opened' });
  });

  test('Stripe takes no deadline', async () => {
    expect(await stripe.open(newAttempt({ payBy: null }))).toMatchObject({ outcome: 'opened' });
  });

  test('an attempt whose first call never arrived is refused after its time', async () => {
    const attempt = newAttempt({ attemptId: uuidv7(Date.now() - hourMs), payBy: new Date() });
    expect(await stripe.open(attempt)).toEqual({
      outcome: 'refused',
      reason: expect.stringContaining('at least 30 minutes'),
    });
  });
});

/** The verdict on an attempt that was paid. */
function captured(providerPaymentId: string) {
  return { verdict: 'paid', capture: { providerPaymentId, amount: 5000, currency: 'EUR' } };
}

describe('close', () => {
  test('an open page is closed: nobody can pay there any more', async () => {
    const attempt = await open();
    expect(await stripe.close(attempt)).toEqual({ verdict: 'closed' });
    expect(server.customers.pay(attempt.id)).toBe(false);
    expect(await stripe.close(attempt)).toEqual({ verdict: 'closed' });
  });

  test('an open form is closed: nobody can pay there any more', async () => {
    const attempt = await openForm();
    expect(await stripe.close(attempt)).toEqual({ verdict: 'closed' });
    expect(server.customers.pay(attempt.id)).toBe(false);
    expect(await stripe.close(attempt)).toEqual({ verdict: 'closed' });
  });

  test('a page that was paid a moment ago is paid', async () => {
    const attempt = await paidPage();
    expect(await stripe.close(attempt)).toEqual(captured(attempt.providerPaymentId));
  });

  test('a form that was paid a moment ago is paid', async () => {
    const attempt = await openForm();
    server.customers.pay(attempt.id);
    expect(await stripe.close(attempt)).toEqual(captured(attempt.id));
  });

  test.for(['debit', 'voucher'] as const)('a page paid by %s is processing until it ends', async (by) => {
    const [succeeds, fails] = [await open(), await open()];
    for (const attempt of [succeeds, fails]) {
      server.customers.payLater(attempt.id, by);
      expect(await stripe.close(attempt)).toEqual({ verdict: 'processing' });
    }
    server.customers.settle(succeeds.id, 'paid');
    server.customers.settle(fails.id, 'failed');
    expect(await stripe.close(succeeds)).toEqual(captured(server.owner.intentIdOf(succeeds.id) ?? ''));
    expect(await stripe.close(fails)).toEqual({ verdict: 'closed' });
  });

  test.for(['debit', 'voucher', 'transfer'] as const)(
    'a form paid by %s is processing, and not cancelled, until it ends',
    async (by) => {
      const [succeeds, fails] = [await openForm(), await openForm()];
      for (const attempt of [succeeds, fails]) {
        server.customers.payLater(attempt.id, by);
        expect(await stripe.look(attempt)).toEqual({ verdict: 'processing' });
        expect(await stripe.close(attempt)).toEqual({ verdict: 'processing' });
      }
      server.customers.settle(succeeds.id, 'paid');
      server.customers.settle(fails.id, 'failed');
      expect(await stripe.close(succeeds)).toEqual(captured(succeeds.id));
      expect(await stripe.close(fails)).toEqual({ verdict: 'closed' });
    },
  );

  test.for(['url', 'client_secret'] as const)(
    'what was paid and returned by hand is closed; where a part was returned, a person must look (%s)',
    async (handOff) => {
      const [whole, part] = [await open({ handOff }), await open({ handOff })];
      for (const { id } of [whole, part]) server.customers.pay(id);
      server.owner.refundByHand(whole.id);
      server.owner.refundByHand(part.id, 2000);
      for (const how of ['look', 'close'] as const) {
        expect(await stripe[how](whole)).toEqual({ verdict: 'closed' });
        expect(await stripe[how](part)).toEqual({
          verdict: 'unknown',
          reason: expect.stringMatching(/^pi_\w+ was paid, and of 5000 eur.* 2000 were returned at Stripe/),
          isProviderWell: true,
        });
      }
    },
  );

  test.for(['url', 'client_secret'] as const)('after a declined card it is closed (%s)', async (handOff) => {
    const attempt = await open({ handOff });
    server.customers.decline(attempt.id);
    expect(await stripe.close(attempt)).toEqual({ verdict: 'closed' });
    expect(server.customers.pay(attempt.id)).toBe(false);
  });

  test('a page that expired by itself is closed', async () => {
    const attempt = await open();
    server.owner.expirePage(attempt.id);
    expect(await stripe.close(attempt)).toEqual({ verdict: 'closed' });
  });

  test('a customer who is at their bank could come back with the money: unknown until they do', async () => {
    const [pays, fails] = [await open(), await open()];
    for (const attempt of [pays, fails]) {
      server.customers.goToBank(attempt.id);
      expect(await stripe.close(attempt)).toMatchObject({
        verdict: 'unknown',
        reason: expect.stringMatching(/^cs_\w+ is expired, and pi_\w+ still requires_action\.$/),
        isProviderWell: true,
      });
    }
    server.customers.returnFromBank(pays.id, 'paid');
    server.customers.returnFromBank(fails.id, 'failed');
    expect(await stripe.close(pays)).toEqual(captured(server.owner.intentIdOf(pays.id) ?? ''));
    expect(await stripe.close(fails)).toEqual({ verdict: 'closed' });
  });

  test('a form whose customer is at their bank is closed: they come back in vain', async () => {
    const attempt = await openForm();
    server.customers.goToBank(attempt.id);
    expect(await stripe.close(attempt)).toEqual({ verdict: 'closed' });
    expect(server.customers.returnFromBank(attempt.id, 'paid')).toBe(false);
  });

  test.for(['url', 'client_secret'] as const)(
    'where the answer is lost, it is closed the next time (%s)',
    async (handOff) => {
      const attempt = await open({ handOff });
      server.misbehave(/(expire|cancel)$/, 'cut', 2);
      expect(await stripe.close(attempt)).toMatchObject({ verdict: 'unknown', isProviderWell: false });
      expect(await stripe.close(attempt)).toEqual({ verdict: 'closed' });
    },
  );

  test('where Stripe refuses and does not say why, it is never closed', async () => {
    const attempt = await open();
    server.misbehave(/expire$/, { status: 400 });
    expect(await stripe.close(attempt)).toEqual({
      verdict: 'unknown',
      reason: `Stripe did not close ${attempt.id}.`,
      isProviderWell: true,
    });
  });

  test.for(['cs_test_of_another_account', 'pi_of_another_account', 'something else'])(
    'what Stripe does not know, %s, is never closed',
    async (providerAttemptId) => {
      const verdict = await stripe.close({ ...newAttempt(), providerAttemptId });
      expect(verdict).toMatchObject({ verdict: 'unknown', isProviderWell: true });
    },
  );
});

describe('look', () => {
  test.for(['url', 'client_secret'] as const)(
    'says what became of it and closes nothing (%s)',
    async (handOff) => {
      const [pays, later] = [await open({ handOff }), await open({ handOff })];
      expect(await stripe.look(pays)).toEqual({ verdict: 'open' });
      server.customers.decline(pays.id);
      expect(await stripe.look(pays)).toEqual({ verdict: 'open' });
      server.customers.goToBank(pays.id);
      expect(await stripe.look(pays)).toEqual({ verdict: 'open' });
      server.customers.returnFromBank(pays.id, 'paid');
      expect(await stripe.look(pays)).toMatchObject({ verdict: 'paid', capture: { amount: 5000 } });
      server.customers.payLater(later.id, 'debit');
      expect(await stripe.look(later)).toEqual({ verdict: 'processing' });
      server.customers.settle(later.id, 'paid');
      expect(await stripe.look(later)).toMatchObject({ verdict: 'paid' });
    },
  );

  test('a page that is closed is closed', async () => {
    const attempt = await open();
    server.owner.expirePage(attempt.id);
    expect(await stripe.look(attempt)).toEqual({ verdict: 'closed' });
  });
});

describe('what is not an answer is unknown, not refused and not closed:', () => {
  const auth = expect.stringMatching(/^Stripe does not accept our key: .*\(401, /);
  const faults: readonly (readonly [string, StripeFault, object])[] = [
    [
      '500',
      { status: 500 },
      { isProviderWell: false, reason: expect.stringMatching(/\(500, api_error, req_/) },
    ],
    ['503', { status: 503 }, { isProviderWell: false }],
    ['429', { status: 429, code: 'rate_limit' }, { isProviderWell: false }],
    ['429 in another guise', { status: 400, code: 'rate_limit' }, { isProviderWell: false }],
    ['an address that is not there', { status: 404 }, { isProviderWell: true }],
    ['a wrong key', { status: 401 }, { isProviderWell: false, reason: auth }],
    [
      'a key without the right',
      { status: 403 },
      { isProviderWell: false, reason: expect.stringMatching(/^Our key at Stripe may not do this: /) },
    ],
    [
      'a twin that is still under way',
      { status: 409, code: 'idempotency_key_in_use' },
      { isProviderWell: true },
    ],
    ['HTML', 'garbled', { isProviderWell: false }],
  ];

  test.for(faults)('%s', async ([, fault, details]) => {
    const attempt = await open();
    const { refund } = await paidPage();
    server.misbehave(/./, fault, 5);
    expect(await stripe.open(newAttempt())).toMatchObject({ outcome: 'unknown', ...details });
    expect(await stripe.close(attempt)).toMatchObject({ verdict: 'unknown', ...details });
    expect(await stripe.look(attempt)).toMatchObject({ verdict: 'unknown', ...details });
    expect(await stripe.refund(refund)).toMatchObject({ state: 'unknown', ...details });
    expect(await stripe.findRefund(refund)).toMatchObject({ state: 'unknown', ...details });
  });

  test.for(['silent', 'drips'] as const)('an answer that is %s', async (fault) => {
    const attempt = await open();
    const hasty = providerAt(server, 300);
    server.misbehave(/GET /, fault);
    expect(await hasty.look(attempt)).toEqual({
      verdict: 'unknown',
      reason: expect.stringMatching(/300 ?ms/),
      isProviderWell: false,
    });
  });

  test('a key that Stripe does not know', async () => {
    const stranger = providerAt({ url: server.url, secretKey: 'sk_test_somebody_else' });
    expect(await stranger.open(newAttempt())).toMatchObject({ outcome: 'unknown', reason: auth });
  });

  test('a server that is down', async () => {
    const down = await startStripe();
    const attempt = newAttempt();
    await down.stop();
    expect(await providerAt(down).open(attempt)).toMatchObject({ outcome: 'unknown', isProviderWell: false });
  });
});

describe('refund', () => {
  test('returns the whole capture under our id', async () => {
    const { refund, orderId, providerPaymentId } = await paidPage();
    const answer = await stripe.refund(refund);
    const [made] = server.owner.refundsOf(providerPaymentId);
    expect(answer).toEqual({ state: 'confirmed', providerRefundId: made?.id });
    expect(made).toMatchObject({
      amount: 5000,
      currency: 'eur',
      metadata: { lapse_refund_id: refund.refundId, lapse_order_id: orderId },
    });
    expect(callsUnder(refund.refundId)).toMatchObject([{ line: 'POST /v1/refunds' }]);
  });

  test('twice with the same id returns the money once', async () => {
    const { refund, providerPaymentId } = await paidPage();
    const [first, second] = await Promise.all([stripe.refund(refund), stripe.refund(refund)]);
    expect(second).toEqual(first);
    expect(await stripe.refund(refund)).toEqual(first);
    expect(server.owner.refundsOf(providerPaymentId)).toHaveLength(1);
  });

  test('where the answer is lost, it is found', async () => {
    const { refund, providerPaymentId } = await paidPage();
    expect(await stripe.findRefund(refund)).toEqual({ state: 'none' });
    server.misbehave(/POST .*refunds$/, 'cut', 2);
    expect(await stripe.refund(refund)).toMatchObject({ state: 'unknown', isProviderWell: false });
    const [made] = server.owner.refundsOf(providerPaymentId);
    expect(await stripe.findRefund(refund)).toEqual({ state: 'confirmed', providerRefundId: made?.id });
    expect(await stripe.refund(refund)).toEqual({ state: 'confirmed', providerRefundId: made?.id });
    expect(server.owner.refundsOf(providerPaymentId)).toHaveLength(1);
  });

  test('sent again after Stripe forgot the key, it is found, not made twice', async () => {
    const { refund, providerPaymentId } = await paidPage();
    const first = await stripe.refund(refund);
    server.forgetKeys();
    expect(await stripe.refund(refund)).toEqual(first);
    expect(server.owner.refundsOf(providerPaymentId)).toHaveLength(1);
  });

  test('a 500 that Stripe repeats for a day hides no refund that was made', async () => {
    const { refund, providerPaymentId } = await paidPage();
    server.misbehave(/POST .*refunds$/, 'breaks');
    expect(await stripe.refund(refund)).toMatchObject({ state: 'unknown' });
    const [made] = server.owner.refundsOf(providerPaymentId);
    expect(await stripe.refund(refund)).toEqual({ state: 'confirmed', providerRefundId: made?.id });
    expect(server.owner.refundsOf(providerPaymentId)).toHaveLength(1);
  });

  test('one that is pending is sent; one that failed since may be sent again, and is another', async () => {
    const { refund, providerPaymentId } = await paidPage();
    server.owner.refundsAre('pending');
    const first = await stripe.refund(refund);
    server.owner.refundsAre('succeeded');
    const [made] = server.owner.refundsOf(providerPaymentId);
    expect(first).toEqual({ state: 'sent', providerRefundId: made?.id });
    expect(await stripe.refund(refund)).toEqual(first);

    server.owner.settleRefund(made?.id ?? '', 'failed', 'expired_or_canceled_card');
    expect(await stripe.findRefund(refund)).toEqual({
      state: 'refused',
      reason: `${made?.id} has failed: expired_or_canceled_card.`,
    });
    const again = await stripe.refund(refund);
    const [second, ...others] = server.owner.refundsOf(providerPaymentId);
    expect(again).toEqual({ state: 'confirmed', providerRefundId: second?.id });
    expect(others).toEqual([expect.objectContaining({ id: made?.id })]);
    expect(await stripe.findRefund(refund)).toEqual(again);
    expect(await stripe.refund(refund)).toEqual(again);
  });

  test('what a person returned by hand is refused, all of it or a part', async () => {
    const [whole, part] = [await paidPage(), await paidPage()];
    server.owner.refundByHand(whole.providerPaymentId);
    server.owner.refundByHand(part.providerPaymentId, 2000);
    expect(await stripe.refund(whole.refund)).toEqual({
      state: 'refused',
      reason: expect.stringContaining('charge_already_refunded'),
    });
    expect(await stripe.refund(part.refund)).toEqual({
      state: 'refused',
      reason: expect.stringContaining('greater than unrefunded amount'),
    });
    expect(await stripe.findRefund(whole.refund)).toEqual({ state: 'none' });
  });

  test('is found among many, on a later page of the list', async () => {
    const { refund, providerPaymentId } = await paidPage();
    const { refundId } = refund;
    await stripe.refund({ ...refund, amount: 1000 });
    for (let n = 0; n < 120; n += 1) server.owner.refundByHand(providerPaymentId, 1);
    const made = server.owner.refundsOf(providerPaymentId).at(-1);
    expect(made?.metadata).toMatchObject({ lapse_refund_id: refundId });
    expect(await stripe.findRefund(refund)).toEqual({ state: 'confirmed', providerRefundId: made?.id });
  });

  test('of a payment that Stripe does not know is unknown', async () => {
    const refund = refundOf('pi_of_another_account');
    expect(await stripe.refund(refund)).toMatchObject({ state: 'unknown', isProviderWell: true });
    expect(await stripe.findRefund(refund)).toMatchObject({ state: 'unknown', isProviderWell: true });
  });
});

describe('amounts', () => {
  test.for([
    ['ISK', 500],
    ['MGA', 50_000],
    ['KWD', 5120],
  ] as const)('%s is asked for, captured and returned alike', async ([currency, amount]) => {
    const attempt = await open({ currency, amount });
    server.customers.pay(attempt.id);
    const verdict = await stripe.close(attempt);
    expect(verdict).toMatchObject({ verdict: 'paid', capture: { amount, currency } });
    const providerPaymentId = server.owner.intentIdOf(attempt.id) ?? '';
    const refund = { ...refundOf(providerPaymentId), amount, currency };
    expect(await stripe.refund(refund)).toMatchObject({ state: 'confirmed' });
  });
});

/** A body as Stripe signs it. */
function signed(body: string) {
  const header = Stripe.webhooks.generateTestHeaderString({ payload: body, secret: webhookSecret });
  return { body: Buffer.from(body), headers: { 'stripe-signature': header } };
}

function noticesIn({ body }: { body: string }): readonly Notice[] {
  const read = stripe.readWebhook(signed(body));
  if (read.outcome !== 'genuine') throw new Error(`${read.outcome}: ${read.reason}`);
  return read.notices;
}

/** The events of what happens meanwhile, by their types, with the notices in each; those without are left out. */
async function toldBy(happens: () => unknown): Promise<Record<string, readonly Notice[]>> {
  const from = server.events.length;
  await happens();
  const told = server.events.slice(from).map((event) => [event.type, noticesIn(event)] as const);
  return Object.fromEntries(told.filter(([, notices]) => notices.length > 0));
}

test('webhooks are checked with the secret and the clock of the provider', () => {
  const webhook = signed('{"object":"event","type":"customer.created","data":{"object":{}}}');
  const outcomeAt = (secret: string, ageMs: number) =>
    stripeProvider({
      secretKey: 'sk',
      webhookSecret: secret,
      log,
      now: () => Date.now() + ageMs,
    }).readWebhook(webhook).outcome;
  expect(outcomeAt(webhookSecret, 0)).toBe('genuine');
  expect(outcomeAt(webhookSecret, 10 * minuteMs)).toBe('stale');
  expect(outcomeAt('whsec_other', 0)).toBe('forged');
});

describe('webhooks tell', () => {
  test('of a payment twice, by the page and by its PaymentIntent, under one id', async () => {
    const attempt = await open();
    const told = await toldBy(() => server.customers.pay(attempt.id));
    const { attemptId, orderId } = attempt;
    const capture = {
      providerPaymentId: server.owner.intentIdOf(attempt.id),
      amount: 5000,
      currency: 'EUR',
    };
    const paid = { kind: 'paid', capture, attemptId, orderId };
    expect(told).toEqual({
      'payment_intent.succeeded': [{ ...paid, providerAttemptId: null }],
      'checkout.session.completed': [{ ...paid, providerAttemptId: attempt.id }],
    });
    expect(await stripe.close(attempt)).toEqual({ verdict: 'paid', capture });
  });

  test('of the payment of a form', async () => {
    const attempt = await openForm();
    const told = await toldBy(() => server.customers.pay(attempt.id));
    const { attemptId, orderId } = attempt;
    const capture = { providerPaymentId: attempt.id, amount: 5000, currency: 'EUR' };
    expect(told).toEqual({
      'payment_intent.succeeded': [
        { kind: 'paid', capture, attemptId, orderId, providerAttemptId: attempt.id },
      ],
    });
  });

  test('of money on its way, and of its arrival', async () => {
    const attempt = await open();
    const { attemptId, orderId } = attempt;
    expect(await toldBy(() => server.customers.payLater(attempt.id, 'debit'))).toEqual({
      'payment_intent.processing': [{ kind: 'processing', attemptId, orderId, providerAttemptId: null }],
      'checkout.session.completed': [
        { kind: 'processing', attemptId, orderId, providerAttemptId: attempt.id },
      ],
    });
    const told = await toldBy(() => server.customers.settle(attempt.id, 'paid'));
    expect(Object.keys(told)).toEqual([
      'payment_intent.succeeded',
      'checkout.session.async_payment_succeeded',
    ]);
    const providerPaymentId = server.owner.intentIdOf(attempt.id);
    for (const notices of Object.values(told)) {
      expect(notices).toMatchObject([
        { kind: 'paid', capture: { providerPaymentId, amount: 5000 }, attemptId },
      ]);
    }
  });

  test('of a voucher, as of money on its way', async () => {
    const attempt = await open();
    expect(await toldBy(() => server.customers.payLater(attempt.id, 'voucher'))).toMatchObject({
      'checkout.session.completed': [{ kind: 'processing', attemptId: attempt.attemptId }],
    });
  });

  test('that money on its way did not arrive, and the page is closed with it', async () => {
    const attempt = await open();
    const { attemptId, orderId } = attempt;
    server.customers.payLater(attempt.id, 'debit');
    expect(await toldBy(() => server.customers.settle(attempt.id, 'failed'))).toEqual({
      'checkout.session.async_payment_failed': [
        { kind: 'closed', attemptId, orderId, providerAttemptId: attempt.id },
      ],
    });
    expect(server.customers.pay(attempt.id)).toBe(false);
  });

  test('nothing of a payment that failed: the customer may try again', async () => {
    const [page, form] = [await open(), await openForm()];
    const told = await toldBy(() => {
      server.customers.decline(page.id);
      server.customers.decline(form.id);
    });
    expect(told).toEqual({});
  });

  test('of a page that expired, and of a form that was cancelled', async () => {
    const [page, form] = [await open(), await openForm()];
    expect(await toldBy(() => server.owner.expirePage(page.id))).toEqual({
      'checkout.session.expired': [
        { kind: 'closed', attemptId: page.attemptId, orderId: page.orderId, providerAttemptId: page.id },
      ],
    });
    expect(await toldBy(() => stripe.close(form))).toEqual({
      'payment_intent.canceled': [
        { kind: 'closed', attemptId: form.attemptId, orderId: form.orderId, providerAttemptId: form.id },
      ],
    });
  });

  test('of a page that expired after a declined card by its PaymentIntent, and of one whose customer is at the bank nothing', async () => {
    const [declined, atBank] = [await open(), await open()];
    server.customers.decline(declined.id);
    server.customers.goToBank(atBank.id);
    const { attemptId, orderId } = declined;
    expect(await toldBy(() => server.owner.expirePage(declined.id))).toEqual({
      'payment_intent.canceled': [{ kind: 'closed', attemptId, orderId, providerAttemptId: null }],
    });
    expect(await toldBy(() => server.owner.expirePage(atBank.id))).toEqual({});
    expect(await stripe.look(atBank)).toMatchObject({ verdict: 'unknown' });
  });

  test('nothing of money for something else, nor of its refunds', async () => {
    const told = await toldBy(() => {
      const id = server.owner.takeOtherPayment(900, 'eur');
      server.owner.refundByHand(id);
    });
    expect(told).toEqual({});
  });

  test('of a refund by our id, when it is confirmed and when it fails', async () => {
    const { refund } = await paidPage();
    const { refundId } = refund;
    const told = await toldBy(() => stripe.refund(refund));
    const [made] = server.owner.refundsOf(refund.providerPaymentId);
    const named = { refundId, providerRefundId: made?.id };
    expect(told).toEqual({ 'refund.created': [{ kind: 'refund_confirmed', ...named }] });
    const failed = { kind: 'refund_failed', reason: 'lost_or_stolen_card', ...named };
    expect(
      await toldBy(() => server.owner.settleRefund(made?.id ?? '', 'failed', 'lost_or_stolen_card')),
    ).toEqual({ 'refund.updated': [failed], 'refund.failed': [failed] });
  });

  test('nothing of a refund that is pending, and then how it ends', async () => {
    const [succeeds, cancels] = [await paidPage(), await paidPage()];
    server.owner.refundsAre('pending');
    const pending = await toldBy(() =>
      Promise.all([succeeds, cancels].map(({ refund }) => stripe.refund(refund))),
    );
    server.owner.refundsAre('succeeded');
    expect(pending).toEqual({});
    const idOf = ({ providerPaymentId }: { providerPaymentId: string }) =>
      server.owner.refundsOf(providerPaymentId)[0]?.id ?? '';
    expect(await toldBy(() => server.owner.settleRefund(idOf(succeeds), 'succeeded'))).toEqual({
      'refund.updated': [
        { kind: 'refund_confirmed', refundId: succeeds.refund.refundId, providerRefundId: idOf(succeeds) },
      ],
    });
    expect(await toldBy(() => server.owner.settleRefund(idOf(cancels), 'canceled'))).toMatchObject({
      'refund.updated': [{ kind: 'refund_failed', refundId: cancels.refund.refundId, reason: 'canceled' }],
    });
  });

  test('nothing of a refund that a person made', async () => {
    const { providerPaymentId } = await paidPage();
    expect(await toldBy(() => server.owner.refundByHand(providerPaymentId, 100))).toEqual({});
  });

  test('the same, whenever and however often they come', async () => {
    const attempt = await open();
    const from = server.events.length;
    server.customers.pay(attempt.id);
    const events = server.events.slice(from);
    const captures = [...events, ...events.toReversed()]
      .flatMap(noticesIn)
      .map((notice) => notice.kind === 'paid' && notice.capture.providerPaymentId);
    expect(captures).toHaveLength(4);
    expect(new Set(captures)).toEqual(new Set([server.owner.intentIdOf(attempt.id)]));
  });
});
