import { waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { startFleet, untilNonePending, type Fleet } from './fleet.ts';

let fleet: Fleet;

beforeAll(async () => {
  fleet = await startFleet({ env: { LAPSE_PARTITIONS: '3' } });
  await fleet.client.setStock('mug', 100);
});

afterAll(async () => {
  await untilNonePending(fleet.database, 20_000);
  await fleet.expectInvariants();
  await fleet.stop();
});

const mug = { sku: 'mug', quantity: 1, unitAmount: 1250 };

function buyMug(paymentWindowMs: number) {
  return fleet.client.checkout({ currency: 'EUR', items: [mug], paymentWindowMs });
}

/**
 * Waits until there is no job, or one delayed to an instant. The answer of a call waits for Redis 25 ms only, and moving
 * a job is exact to a millisecond or two: BullMQ counts from now.
 */
function untilJob(orderId: string, firesAt: string | null) {
  return waitFor(
    async () => {
      const { job } = await fleet.client.timeline(orderId);
      if (firesAt === null) return job === null;
      const offMs = Date.parse(job?.firesAt ?? '') - Date.parse(firesAt);
      return job?.state === 'delayed' && Math.abs(offMs) < 50;
    },
    { what: firesAt === null ? 'the job to be gone' : `the job to stand at ${firesAt}` },
  );
}

function settled(orderId: string) {
  return waitFor(
    async () => {
      const order = await fleet.client.order(orderId);
      return order.status === 'pending_payment' ? undefined : order;
    },
    { what: 'the order to be settled', timeoutMs: 15_000 },
  );
}

test('a checkout arms a job that fires at the deadline', async () => {
  const order = await buyMug(60_000);
  expect(await untilJob(order.id, order.deadlineAt)).toBe(true);
  const { events } = await fleet.client.timeline(order.id);
  expect(events.map(({ type }) => type)).toEqual(['order.placed']);
  await fleet.client.cancel(order.id);
});

test('a payment disarms it, and the order stays paid', async () => {
  const order = await buyMug(60_000);
  const { outcome, order: paid } = await fleet.client.pay(order.id, {
    provider: 'shop',
    providerPaymentId: order.id,
    amount: order.amount,
    currency: order.currency,
  });
  expect(outcome).toBe('paid');
  expect(paid.status).toBe('paid');
  expect(await untilJob(order.id, null)).toBe(true);
});

test('an order that is not paid in time is cancelled once, and its stock is on sale again', async () => {
  const before = await fleet.client.stock('mug');
  const order = await buyMug(1000);
  expect((await fleet.client.stock('mug')).available).toBe((before.available ?? 0) - 1);

  const ended = await settled(order.id);
  expect(ended).toMatchObject({ status: 'cancelled', cancelReason: 'payment_timeout' });
  expect(Date.parse(ended.cancelledAt ?? '')).toBeGreaterThanOrEqual(Date.parse(order.deadlineAt ?? ''));
  expect(await fleet.client.stock('mug')).toEqual(before);
  const { events } = await fleet.client.timeline(order.id);
  expect(events.map(({ type }) => type)).toEqual(['order.placed', 'order.cancelled']);
});

test('an extension moves the job, and the order lapses at its new deadline', async () => {
  const order = await buyMug(1000);
  const extended = await fleet.client.extend(order.id, { byMs: 1500 });
  expect(Date.parse(extended.deadlineAt ?? '')).toBe(Date.parse(order.deadlineAt ?? '') + 1500);
  expect(await untilJob(order.id, extended.deadlineAt)).toBe(true);
  const ended = await settled(order.id);
  expect(ended.cancelReason).toBe('payment_timeout');
  expect(Date.parse(ended.cancelledAt ?? '')).toBeGreaterThanOrEqual(Date.parse(extended.deadlineAt ?? ''));
});

test('a customer who cancels frees the stock at once, and a second cancel changes nothing', async () => {
  const before = await fleet.client.stock('mug');
  const order = await buyMug(60_000);
  const cancelled = await fleet.client.cancel(order.id);
  expect(cancelled).toMatchObject({ status: 'cancelled', cancelReason: 'customer' });
  expect(await fleet.client.stock('mug')).toEqual(before);
  expect(await fleet.client.cancel(order.id, 'merchant')).toEqual(cancelled);
  expect(await untilJob(order.id, null)).toBe(true);
});

test('money that comes after the cancellation is recorded and listed', async () => {
  const order = await buyMug(1000);
  await settled(order.id);
  const { outcome, payment } = await fleet.client.pay(order.id, {
    provider: 'shop',
    providerPaymentId: `late-${order.id}`,
    amount: order.amount,
    currency: order.currency,
  });
  expect(outcome).toBe('late');
  const { rows } = await fleet.database.query(
    'select listed_at is not null as listed from payments where id = $1',
    [payment.id],
  );
  expect(rows).toEqual([{ listed: true }]);
});
