import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { createClient, type LapseClient } from '@lapse/client';
import { createDeadlines, type Deadlines } from '@lapse/deadlines';
import { startRedis, waitFor } from '@lapse/devstack';
import { createOrders, type Order, type Orders } from '@lapse/orders';
import { createLog, createMetrics } from '@lapse/runtime';
import { afterAll, beforeAll, expect } from 'vitest';

import { apiKey, startFleet, type Fleet } from '../e2e/fleet.ts';
import { startVictim, type Role, type Victim } from './victim.ts';

/** Longest anything is waited for, ms: a killed worker's jobs come back within 12 s, on an idle machine. */
export const patienceMs = 25_000;

/** A fleet on a database and a Redis of its own, and processes beside it that halt. */
export interface Stage extends Fleet {
  /** The truth and the timer, without a process between: to set the scene, and to look. */
  readonly orders: Orders;
  readonly deadlines: Deadlines;
  /** Starts a process that halts at a point. */
  startVictim(role: Role, ...point: readonly string[]): Promise<Victim>;
}

/** How many processes a stage has, and their settings besides those of every stage. */
export interface StageOptions {
  readonly apiCount: number;
  readonly workerCount: number;
  readonly env?: Readonly<Record<string, string>>;
}

/** Stages on one Redis server. */
interface Stages {
  open(options: StageOptions): Promise<Stage>;
  /** Opens a stage without processes, runs the play on it, and ends with the invariants. */
  play(act: (stage: Stage) => Promise<void>): Promise<void>;
}

/** The stages of a test file; called at its top. Their Redis runs from the first test to the last. */
export function prepareStages(): Stages {
  let opened: Awaited<ReturnType<typeof openStages>> | undefined;
  beforeAll(async () => {
    opened = await openStages();
  });
  afterAll(async () => {
    await opened?.close();
  });
  const stages = (): Stages => {
    if (opened === undefined) throw new Error('stages are there in tests and hooks only');
    return opened;
  };
  return { open: (options) => stages().open(options), play: (act) => stages().play(act) };
}

/** Starts the Redis server. Each stage has one of its databases. */
async function openStages(): Promise<Stages & { close(): Promise<void> }> {
  const dataDir = await mkdtemp(join(tmpdir(), 'lapse-crash-'));
  const redis = await startRedis({ dataDir });
  let count = 0;

  const open: Stages['open'] = async (options) => {
    const redisUrl = `${redis.url}/${count}`;
    count += 1;
    const log = createLog('test', 'error');
    const deadlines = createDeadlines({ redisUrl, log, metrics: createMetrics() });
    await waitFor(() => deadlines.reachable(), { what: 'redis' });
    // Else the workers would take it for a new Redis, and arm every deadline that nobody armed.
    await deadlines.markEpoch([0], randomUUID());
    const fleet = await startFleet({ ...options, redisUrl });
    const victims: Victim[] = [];
    return {
      ...fleet,
      orders: createOrders({ database: fleet.database }),
      deadlines,
      async startVictim(role, ...point) {
        const victim = await startVictim(role, point, {
          DATABASE_URL: fleet.databaseUrl,
          REDIS_URL: redisUrl,
          LAPSE_HOST: '127.0.0.1',
          LAPSE_API_PORT: '0',
          LAPSE_WORKER_PORT: '0',
          LAPSE_API_KEY: apiKey,
          ...options.env,
        });
        victims.push(victim);
        return victim;
      },
      async stop() {
        await Promise.all(victims.map((victim) => victim.kill()));
        await deadlines.stop();
        await fleet.stop();
      },
    };
  };
  return {
    open,
    async play(act) {
      const stage = await open({ apiCount: 0, workerCount: 0 });
      try {
        await act(stage);
        await stage.expectInvariants();
      } finally {
        await stage.stop();
      }
    },
    async close() {
      await redis.stop();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}

/** Sends requests to an api that halts on their way, and kills it there: nobody answers. */
export async function killDuring(
  victim: Victim,
  ...requests: readonly ((api: LapseClient) => Promise<unknown>)[]
): Promise<void> {
  const api = createClient({ baseUrl: await victim.url(), apiKey });
  const answers = requests.map((request) =>
    request(api).then(
      () => 'answered',
      () => 'lost',
    ),
  );
  await victim.kill({ when: 'halted', times: requests.length });
  expect(await Promise.all(answers)).toEqual(requests.map(() => 'lost'));
}

/** Sets the stock of a SKU, one piece unless said otherwise, and places an order of one piece without arming it. */
export async function placeUnarmed(
  { orders }: Stage,
  order: { paymentWindowMs: number; sku?: string },
): Promise<Order> {
  const { sku = randomUUID(), paymentWindowMs } = order;
  if ((await orders.readStock(sku)) === undefined) await orders.setStock(sku, 1);
  const answer = await orders.checkout({
    reference: null,
    channel: 'default',
    paymentMethod: 'card',
    currency: 'EUR',
    items: [{ sku, quantity: 1, unitAmount: 100 }],
    paymentWindowMs,
    metadata: {},
    actor: 'test',
  });
  if (answer.outcome !== 'placed') throw new Error(`the order was not placed: ${answer.outcome}`);
  return answer.order;
}

/** Places an order of a SKU of its own, and arms it. */
export async function place(stage: Stage, paymentWindowMs: number): Promise<Order> {
  const order = await placeUnarmed(stage, { paymentWindowMs });
  const { id: orderId, partition, createdAt, expireAt } = order;
  if (expireAt === null) throw new Error('the order waits for ever');
  expect(await stage.deadlines.arm({ orderId, partition, createdAt, expireAt })).not.toBe('failed');
  // `deferred` is on its way; in whatever state, its job is there.
  await waitFor(async () => (await jobState(stage, order.id)) !== 'none', { what: 'the job' });
  return order;
}

/** The state of an order's job, `none` where there is no job. */
export async function jobState({ deadlines }: Stage, orderId: string): Promise<string> {
  return (await deadlines.inspect({ orderId, partition: 0 }))?.state ?? 'none';
}

/** Waits until an order's job is in this state. */
export async function untilJob(stage: Stage, orderId: string, state: string): Promise<void> {
  await waitFor(async () => (await jobState(stage, orderId)) === state, {
    what: `the job of ${orderId} to be ${state}`,
    timeoutMs: patienceMs,
  });
}

/** Waits until an order has a job that fires at its `expire_at` as it is now. */
export async function untilArmed(stage: Stage, orderId: string): Promise<void> {
  await waitFor(
    async () => {
      const [job, order] = await Promise.all([
        stage.deadlines.inspect({ orderId, partition: 0 }),
        stage.orders.find(orderId),
      ]);
      // Moving a job is exact to a few milliseconds: BullMQ counts from now.
      return Math.abs((job?.firesAt?.getTime() ?? 0) - (order?.expireAt?.getTime() ?? Infinity)) < 250;
    },
    { what: `${orderId} to be armed`, timeoutMs: patienceMs },
  );
}

/** The story of an order: the types of its events, in order. */
export async function story({ orders }: Stage, orderId: string): Promise<readonly string[]> {
  return (await orders.timeline(orderId)).map(({ type }) => type);
}

/**
 * Waits until an order was cancelled for time; not before its time, and once.
 *
 * @param bound.latenessMs most lateness; where no worker ran all the time there is no bound
 * @returns who cancelled it
 */
export async function untilLapsed(
  stage: Stage,
  orderId: string,
  bound: { latenessMs?: number } = {},
): Promise<string | undefined> {
  const order = await waitFor(
    async () => {
      const found = await stage.orders.find(orderId);
      return found?.status === 'cancelled' && found;
    },
    { what: `${orderId} to lapse`, timeoutMs: patienceMs },
  );
  expect(order.cancelReason).toBe('payment_timeout');
  const latenessMs = (order.cancelledAt?.getTime() ?? 0) - (order.expireAt?.getTime() ?? 0);
  expect(latenessMs).toBeGreaterThanOrEqual(0);
  expect(latenessMs).toBeLessThan(bound.latenessMs ?? Infinity);
  const endings = (await stage.orders.timeline(orderId)).filter(({ type }) => type === 'order.cancelled');
  expect(endings).toHaveLength(1);
  for (const { sku } of order.items) expect(await stage.orders.readStock(sku)).toMatchObject({ held: 0 });
  return endings[0]?.actor;
}
