import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { offlineProvider } from './offline.ts';

const offline = offlineProvider();
const attemptId = randomUUID();
const orderId = randomUUID();
const attempt = { attemptId, orderId, providerAttemptId: attemptId };
const refund = {
  refundId: randomUUID(),
  orderId,
  providerPaymentId: 'transfer 1',
  amount: 1,
  currency: 'EUR',
};

test('the customer gets instructions with the order as the reference, the same each time', async () => {
  const open = () =>
    offline.open({
      attemptId,
      orderId,
      amount: 1250,
      currency: 'EUR',
      payBy: null,
      handOff: 'url',
      returnUrl: null,
      description: 'Order 1042',
    });
  expect(await open()).toEqual({
    outcome: 'opened',
    providerAttemptId: attemptId,
    handOff: { instructions: `Order 1042. Payment reference: ${orderId}` },
  });
  expect(await open()).toEqual(await open());
});

test('an attempt is open until it is closed, and is closed at once', async () => {
  expect(await offline.look(attempt)).toEqual({ verdict: 'open' });
  expect(await offline.close(attempt)).toEqual({ verdict: 'closed' });
});

test('a refund is left to a person', async () => {
  expect(await offline.refund(refund)).toMatchObject({ state: 'refused' });
  expect(await offline.findRefund(refund)).toEqual({ state: 'none' });
});

test('no webhook is believed', () => {
  expect(offline.readWebhook({ body: Buffer.from('{}'), headers: {} })).toMatchObject({ outcome: 'forged' });
});
