import { waitFor } from '@lapse/devstack';
import type { Payment } from '@lapse/orders';
import type { PaymentProvider } from '@lapse/payments';
import { createMetrics } from '@lapse/runtime';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { refunder } from './refunder.ts';
import { aProvider, beginToPay, openStage, silent, type Stage } from './testing.ts';

let stage: Stage;
let orderId: string;

beforeAll(async () => {
  stage = await openStage();
});
afterAll(() => stage.close());

/** Money that falls due to go back: it came after its order was cancelled. */
beforeEach(async () => {
  const { orders } = stage;
  const begun = await beginToPay(stage, 'bank');
  ({ orderId } = begun);
  await orders.cancel({ orderId, reason: 'customer', actor: 'test' });
  const { attemptId } = begun;
  const money = {
    provider: 'bank',
    providerPaymentId: `capture of ${orderId}`,
    amount: 500,
    currency: 'EUR',
  };
  const paid = await orders.pay({ orderId, attemptId, ...money, verified: true, actor: 'test' });
  if (paid.outcome !== 'late') throw new Error(`the money was not late: ${paid.outcome}`);
});

async function payment(): Promise<Payment> {
  const [only] = await stage.orders.payments(orderId);
  if (only === undefined) throw new Error('the payment was not recorded');
  return only;
}

/** Takes the refund as a worker does that then dies. */
async function claim(): Promise<string> {
  const refund = (await stage.orders.claimRefunds(100)).find((one) => one.orderId === orderId);
  if (refund === undefined) throw new Error('the refund is not due');
  return refund.id;
}

/** Lets a worker with these providers try the refund once, and answers what has become of its payment. */
async function tryOnce(...providers: PaymentProvider[]): Promise<Payment> {
  await stage.database.query('update refunds set try_at = now() where try_at is not null');
  const before = (await payment()).refund?.tryCount ?? 0;
  const worker = refunder({
    orders: stage.orders,
    providers: new Map(providers.map((provider) => [provider.name, provider])),
    log: silent,
    metrics: createMetrics(),
  });
  await worker.start();
  await waitFor(async () => ((await payment()).refund?.tryCount ?? 0) > before, { what: 'the try' });
  // It waits for what is under way.
  await worker.stop();
  return payment();
}

const refused = { state: 'refused', reason: 'it was returned already' } as const;
const providerRefundId = 're_1';

describe('a worker that is not connected to the provider', () => {
  test('gives a refund to a person that nobody ever sent', async () => {
    expect(await tryOnce()).toMatchObject({ listedFor: 'refund_failed', refund: { state: 'failed' } });
  });

  test('leaves one alone that may have been sent: by hand it would go back twice', async () => {
    await claim();
    expect(await tryOnce()).toMatchObject({ listedAt: null, refund: { state: 'due' } });
  });

  test('leaves one alone that the provider took', async () => {
    await stage.orders.recordRefund(
      { refundId: await claim() },
      { state: 'sent', providerRefundId: `re of ${orderId}`, actor: 'test' },
    );
    expect(await tryOnce()).toMatchObject({ listedAt: null, refund: { state: 'sent' } });
  });
});

/** A provider that refuses, and finds this of what it did before. */
const bank = (found: Awaited<ReturnType<PaymentProvider['findRefund']>>): PaymentProvider =>
  aProvider('bank', {
    refund: () => Promise.resolve(refused),
    findRefund: () => Promise.resolve(found),
  });

describe('a refund that is refused', () => {
  test('at its first try is given to a person, and not looked for', async () => {
    const provider = aProvider('bank', {
      refund: () => Promise.resolve(refused),
      findRefund: () => Promise.reject(new Error('nobody needs to ask')),
    });
    expect(await tryOnce(provider)).toMatchObject({ refund: { state: 'failed' } });
  });

  test('because an earlier try, of which no answer came, did it, is found and kept', async () => {
    await claim();
    const found = { state: 'confirmed', providerRefundId: `${providerRefundId} ${orderId}` } as const;
    expect(await tryOnce(bank(found))).toMatchObject({ listedAt: null, refund: found });
  });

  test('after an earlier try that never arrived is given to a person', async () => {
    await claim();
    expect(await tryOnce(bank({ state: 'none' }))).toMatchObject({
      listedFor: 'refund_failed',
      refund: { state: 'failed', lastReason: refused.reason },
    });
  });

  test('while nobody can say what became of the earlier try, is tried again', async () => {
    await claim();
    const unsaid = { state: 'unknown', reason: 'the bank is busy' } as const;
    expect(await tryOnce(bank(unsaid))).toMatchObject({ listedAt: null, refund: { state: 'due' } });
  });
});
