import { randomUUID } from 'node:crypto';

import type { LapseClient } from '@lapse/client';
import { waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import {
  jobState,
  killDuring,
  prepareStages,
  place,
  story,
  untilArmed,
  untilJob,
  untilLapsed,
  type Stage,
} from './stage.ts';

/** What the sweeper promises: one second, and the bound of the invariants. */
const latenessMs = 3000;

const stages = prepareStages();
let stage: Stage;

beforeAll(async () => {
  stage = await stages.open({ apiCount: 1, workerCount: 1 });
});

afterAll(async () => {
  try {
    await stage.expectInvariants();
  } finally {
    await stage.stop();
  }
});

/** A checkout of the last piece of a SKU of its own: a second order could not be placed. */
async function aCheckout(paymentWindowMs: number) {
  const sku = randomUUID();
  await stage.client.setStock(sku, 1);
  const reference = sku;
  const send = (api: LapseClient) =>
    api.checkout(
      { reference, currency: 'EUR', items: [{ sku, quantity: 1, unitAmount: 100 }], paymentWindowMs },
      { idempotencyKey: reference },
    );
  const placed = async (): Promise<readonly string[]> =>
    (await stage.client.orders({ reference })).data.map(({ id }) => id);
  return { send, placed };
}

/** Kills an api in the middle of a checkout; the ids of the orders that it left. */
async function killInCheckout(paymentWindowMs: number, ...point: readonly [call: string, moment: string]) {
  const victim = await stage.startVictim('api', ...point);
  const { send, placed } = await aCheckout(paymentWindowMs);
  await killDuring(victim, send);
  return { send, placed, ids: await placed() };
}

describe.concurrent('checkout', () => {
  test('statement → killed → COMMIT: there is no order; the retry places one, armed, which lapses', async () => {
    const { send, placed, ids } = await killInCheckout(3000, 'commit', 'before');
    expect(ids).toEqual([]);
    const { id } = await send(stage.client);
    expect(await placed()).toEqual([id]);
    await untilArmed(stage, id);
    await untilLapsed(stage, id, { latenessMs });
    await untilJob(stage, id, 'completed');
  });

  test('COMMIT → killed → arm, retry: 201 with the same order, armed at once, which lapses by its job', async () => {
    const { send, placed, ids } = await killInCheckout(4000, 'arm', 'before');
    const [id = ''] = ids;
    expect(await jobState(stage, id)).toBe('none');
    const retried = await send(stage.client);
    expect(retried).toMatchObject({ id, status: 'pending_payment' });
    expect(await jobState(stage, id)).toBe('delayed');
    expect(await placed()).toEqual([id]);
    await untilLapsed(stage, id, { latenessMs });
    await untilJob(stage, id, 'completed');
    expect(await send(stage.client)).toMatchObject({ id, status: 'cancelled' });
  });

  test('COMMIT → killed → arm, no retry, a short window: lapses on time through the sweeper', async () => {
    const { ids } = await killInCheckout(1500, 'arm', 'before');
    const [id = ''] = ids;
    expect(await untilLapsed(stage, id, { latenessMs })).toBe('sweeper');
    expect(await jobState(stage, id)).toBe('none');
  });

  test('COMMIT → killed → arm, no retry, a longer window: the comparison arms it, lapses by its job', async () => {
    const { ids } = await killInCheckout(18_000, 'arm', 'before');
    const [id = ''] = ids;
    expect(await jobState(stage, id)).toBe('none');
    await untilArmed(stage, id);
    await untilLapsed(stage, id, { latenessMs });
    await untilJob(stage, id, 'completed');
  }, 60_000);

  test('COMMIT → arm → killed → 201, retry: the same order with its one job', async () => {
    const { send, placed, ids } = await killInCheckout(4000, 'arm', 'after');
    const [id = ''] = ids;
    await untilArmed(stage, id);
    expect(await send(stage.client)).toMatchObject({ id, status: 'pending_payment' });
    expect(await placed()).toEqual([id]);
    await untilArmed(stage, id);
    await untilLapsed(stage, id, { latenessMs });
    await untilJob(stage, id, 'completed');
  });

  test('COMMIT → arm → killed → 201, no retry: lapses by its job', async () => {
    const { ids } = await killInCheckout(3000, 'arm', 'after');
    const [id = ''] = ids;
    expect(await jobState(stage, id)).toBe('delayed');
    await untilLapsed(stage, id, { latenessMs });
    await untilJob(stage, id, 'completed');
  });
});

const byMs = 4000;

async function killInExtend(...point: readonly [call: string, moment: string]) {
  const victim = await stage.startVictim('api', ...point);
  await victim.url();
  const order = await place(stage, 3000);
  const firedAtMs = order.expireAt?.getTime() ?? 0;
  await killDuring(victim, (api) => api.extend(order.id, { byMs }));
  return { id: order.id, firedAtMs };
}

const firesAtMs = async (id: string): Promise<number> =>
  (await stage.deadlines.inspect({ orderId: id, partition: 0 }))?.firesAt?.getTime() ?? 0;
const expireAtMs = async (id: string): Promise<number> =>
  (await stage.orders.find(id))?.expireAt?.getTime() ?? 0;

describe.concurrent('extend', () => {
  test('statement → killed → COMMIT: nothing was extended, lapses at its old deadline', async () => {
    const { id, firedAtMs } = await killInExtend('commit', 'before');
    await untilLapsed(stage, id, { latenessMs });
    expect(await expireAtMs(id)).toBe(firedAtMs);
    expect(await story(stage, id)).toEqual(['order.placed', 'order.cancelled']);
  });

  test('COMMIT → killed → rearm: the job fires early, is delayed again, lapses at the new deadline', async () => {
    const { id, firedAtMs } = await killInExtend('rearm', 'before');
    expect(await expireAtMs(id)).toBe(firedAtMs + byMs);
    expect(Math.abs((await firesAtMs(id)) - firedAtMs)).toBeLessThan(250);
    await waitFor(async () => (await firesAtMs(id)) > firedAtMs + byMs / 2, {
      what: 'the job to be delayed again',
      timeoutMs: 20_000,
    });
    expect((await stage.orders.find(id))?.status).toBe('pending_payment');
    await untilLapsed(stage, id, { latenessMs });
    await untilJob(stage, id, 'completed');
    expect(await story(stage, id)).toEqual(['order.placed', 'order.extended', 'order.cancelled']);
  });

  test('COMMIT → rearm → killed → 200: the job stands at the new deadline, where the order lapses', async () => {
    const { id, firedAtMs } = await killInExtend('rearm', 'after');
    expect(await expireAtMs(id)).toBe(firedAtMs + byMs);
    await untilArmed(stage, id);
    await untilLapsed(stage, id, { latenessMs });
    await untilJob(stage, id, 'completed');
  });
});
