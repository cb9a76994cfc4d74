import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Order, Timeline } from '@lapse/client';
import { inParallel, waitFor } from '@lapse/devstack';
import { reminderQueueName } from '@lapse/deadlines';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { apiKey, metric, startFleet, type Fleet } from './fleet.ts';

/** The customer is reminded 5 s after the checkout, and has 10 s from then on. */
const policies = { defaults: { window: '15s', reminders: ['10s'] } };
const windowMs = 15_000;
const beforeMs = 10_000;

type Told = Timeline['events'][number];

let folder: string;
let fleet: Fleet;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lapse-reminders-'));
  const file = join(folder, 'policies.json');
  await writeFile(file, JSON.stringify(policies));
  fleet = await startFleet({ workerCount: 2, env: { LAPSE_POLICIES: file } });
  await fleet.client.setStock('mug', null);
});
afterAll(async () => {
  await fleet.expectInvariants();
  await fleet.stop();
  await rm(folder, { recursive: true });
});

const place = (wish: { channel?: string; paymentWindowMs?: number } = {}): Promise<Order> =>
  fleet.client.checkout({ currency: 'EUR', items: [{ sku: 'mug', quantity: 1, unitAmount: 500 }], ...wish });

const deadlineOf = ({ deadlineAt }: Order): number => Date.parse(deadlineAt ?? '');

async function remindersOf({ id }: Order): Promise<Told[]> {
  const { events } = await fleet.client.timeline(id);
  return events.filter(({ type }) => type === 'order.payment_reminder');
}

const reminded = (order: Order): Promise<Told> =>
  waitFor(async () => (await remindersOf(order))[0], {
    what: `the reminder of order ${order.id}`,
    timeoutMs: 30_000,
  });

/** Waits until an order that is placed now was reminded: whatever was to happen before it has happened. */
const untilLaterOneIsReminded = async (): Promise<Told> => reminded(await place({ channel: 'later' }));

/** Reminders that the workers sent. */
async function countSent(by: 'job' | 'sweep'): Promise<number> {
  const counts = await Promise.all(
    fleet.workers.map((worker) => metric(worker, `lapse_reminders_total{by="${by}"}`)),
  );
  return counts.reduce((sum, count) => sum + count, 0);
}

async function post(path: string, body: unknown = {}): Promise<{ id: string }> {
  const response = await fetch(`${fleet.apis[0]?.url ?? ''}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  expect(response.ok).toBe(true);
  return (await response.json()) as { id: string };
}

describe.concurrent('a customer', () => {
  test('who has not paid is reminded, once, at the time that the policy says', async () => {
    const order = await place();
    expect(deadlineOf(order) - Date.parse(order.createdAt)).toBe(windowMs);
    const { at, actor, data } = await reminded(order);
    expect(Date.parse(at)).toBeGreaterThanOrEqual(deadlineOf(order) - beforeMs);
    expect(Date.parse(at)).toBeLessThan(deadlineOf(order));
    expect(['worker', 'sweeper']).toContain(actor);
    expect(data).toEqual({ deadlineAt: order.deadlineAt, beforeMs });
    await untilLaterOneIsReminded();
    expect(await remindersOf(order)).toHaveLength(1);
  });

  test('who has paid, has cancelled, or had less time from the start is not reminded', async () => {
    const [paid, cancelled, hasty] = [
      await place(),
      await place(),
      await place({ paymentWindowMs: beforeMs }),
    ];
    await fleet.client.pay(paid.id, {
      provider: 'bank',
      providerPaymentId: paid.id,
      amount: 500,
      currency: 'EUR',
    });
    await fleet.client.cancel(cancelled.id, 'customer');
    await untilLaterOneIsReminded();
    for (const order of [paid, cancelled, hasty]) expect(await remindersOf(order)).toEqual([]);
  });

  test('whose deadline is extended is reminded later', async () => {
    const order = await place();
    const extended = await fleet.client.extend(order.id, { byMs: 4000 });
    await untilLaterOneIsReminded();
    const { at, data } = await reminded(order);
    expect(data).toEqual({ deadlineAt: extended.deadlineAt, beforeMs });
    expect(Date.parse(at)).toBeGreaterThanOrEqual(deadlineOf(extended) - beforeMs);
  });

  test('whose clock stands still is reminded after the thaw, with as much time left as before', async () => {
    const order = await place({ channel: 'frozen' });
    const { id } = await post('/v1/freezes', { scope: { channel: 'frozen' }, reason: 'it is down' });
    await untilLaterOneIsReminded();
    expect(await remindersOf(order)).toEqual([]);
    await post(`/v1/freezes/${id}/thaw`);
    const { at, data } = await reminded(order);
    const thawed = await fleet.client.order(order.id);
    expect(deadlineOf(thawed)).toBeGreaterThan(deadlineOf(order));
    expect(data).toEqual({ deadlineAt: thawed.deadlineAt, beforeMs });
    expect(Date.parse(at)).toBeGreaterThanOrEqual(deadlineOf(thawed) - beforeMs);
  });
});

test('a reminder whose job is lost is sent by the sweep', async () => {
  const order = await place();
  const redis = new Redis(fleet.redisUrl);
  await waitFor(() => redis.zscore(`bull:${reminderQueueName}:delayed`, order.id), { what: 'the job' });
  await redis.flushdb();
  redis.disconnect();
  expect((await reminded(order)).actor).toBe('sweeper');
});

test('two workers send each of many reminders once', async () => {
  const countAll = async (): Promise<number> => (await countSent('sweep')) + (await countSent('job'));
  const [sentBefore, firedBefore] = [await countAll(), await countSent('job')];
  const orders = await inParallel(100, 20, () => place());
  await Promise.all(orders.map((order) => reminded(order)));
  await untilLaterOneIsReminded();
  const counts = await Promise.all(orders.map(async (order) => (await remindersOf(order)).length));
  expect(counts).toEqual(orders.map(() => 1));
  await waitFor(async () => (await countAll()) === sentBefore + 101, { what: 'them to be counted' });
  expect(await countSent('job')).toBeGreaterThan(firedBefore);
});
