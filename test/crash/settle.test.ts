import type { LapseClient } from '@lapse/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { untilNonePending } from '../e2e/fleet.ts';
import {
  jobState,
  killDuring,
  prepareStages,
  place,
  story,
  untilJob,
  untilLapsed,
  type Stage,
} from './stage.ts';

const stages = prepareStages();
let stage: Stage;

beforeAll(async () => {
  stage = await stages.open({ apiCount: 1, workerCount: 0 });
  // Only jobs act: a whole worker would compare, and take away the jobs that are to fire in vain.
  await stage.startVictim('fire');
});

afterAll(async () => {
  try {
    await stage.add('worker');
    await untilNonePending(stage.database, 20_000);
    await stage.expectInvariants();
  } finally {
    await stage.stop();
  }
});

/** Kills an api in the middle of a request about an order that is pending and armed; the order's id. */
async function killInRequest(
  paymentWindowMs: number,
  point: readonly [call: string, moment: string],
  request: (id: string) => (api: LapseClient) => Promise<unknown>,
): Promise<string> {
  const victim = await stage.startVictim('api', ...point);
  await victim.url();
  const { id } = await place(stage, paymentWindowMs);
  await killDuring(victim, request(id));
  return id;
}

const pay = (id: string) => (api: LapseClient) =>
  api.pay(
    id,
    { provider: 'shop', providerPaymentId: id, amount: 100, currency: 'EUR' },
    { idempotencyKey: id },
  );

/** Expects that the order is paid by one payment, and that the request is answered with it, again and again. */
async function expectPaid(id: string): Promise<void> {
  const [answer, again] = [await pay(id)(stage.client), await pay(id)(stage.client)];
  expect(answer).toMatchObject({ outcome: 'paid', order: { id, status: 'paid' } });
  expect(again).toEqual(answer);
  expect((await stage.orders.payments(id)).map((payment) => payment.id)).toEqual([answer.payment.id]);
  expect(await story(stage, id)).toEqual(['order.placed', 'order.paid']);
}

describe.concurrent('pay', () => {
  test('statement → killed → COMMIT: the order is still pending; the retry pays it, once', async () => {
    const id = await killInRequest(30_000, ['commit', 'before'], pay);
    expect((await stage.orders.find(id))?.status).toBe('pending_payment');
    expect(await stage.orders.payments(id)).toEqual([]);
    await expectPaid(id);
    expect(await jobState(stage, id)).toBe('none');
  });

  test('COMMIT → killed → disarm: the job fires in vain, the order stays paid; the retry is answered the same', async () => {
    const id = await killInRequest(3000, ['disarm', 'before'], pay);
    expect(await jobState(stage, id)).toBe('delayed');
    await untilJob(stage, id, 'completed');
    await expectPaid(id);
  });

  test('COMMIT → killed → disarm, retry before the deadline: it disarms', async () => {
    const id = await killInRequest(30_000, ['disarm', 'before'], pay);
    expect(await jobState(stage, id)).toBe('delayed');
    await expectPaid(id);
    expect(await jobState(stage, id)).toBe('none');
  });

  test('COMMIT → disarm → killed → 200: paid, no job; the retry is answered the same', async () => {
    const id = await killInRequest(30_000, ['disarm', 'after'], pay);
    expect(await jobState(stage, id)).toBe('none');
    await expectPaid(id);
  });
});

const cancel = (id: string) => (api: LapseClient) => api.cancel(id);

/** Expects that the customer's cancellation stands, and that asking again changes nothing. */
async function expectCancelled(id: string): Promise<void> {
  const order = await stage.client.cancel(id);
  expect(order).toMatchObject({ id, status: 'cancelled', cancelReason: 'customer' });
  const [{ sku } = { sku: '' }] = order.items;
  expect(await stage.client.stock(sku)).toMatchObject({ held: 0, available: 1 });
  expect(await story(stage, id)).toEqual(['order.placed', 'order.cancelled']);
}

describe.concurrent('cancel', () => {
  test('statement → killed → COMMIT: nobody cancelled it, so it lapses by its job', async () => {
    const id = await killInRequest(3000, ['commit', 'before'], cancel);
    expect((await stage.orders.find(id))?.status).toBe('pending_payment');
    await untilLapsed(stage, id, { latenessMs: 3000 });
    await untilJob(stage, id, 'completed');
  });

  test('COMMIT → killed → disarm: the job fires in vain, the order stays cancelled by its customer', async () => {
    const id = await killInRequest(3000, ['disarm', 'before'], cancel);
    expect(await jobState(stage, id)).toBe('delayed');
    await untilJob(stage, id, 'completed');
    await expectCancelled(id);
  });

  test('COMMIT → disarm → killed → 200: cancelled, no job; asking again changes nothing', async () => {
    const id = await killInRequest(30_000, ['disarm', 'after'], cancel);
    expect(await jobState(stage, id)).toBe('none');
    await expectCancelled(id);
  });
});
