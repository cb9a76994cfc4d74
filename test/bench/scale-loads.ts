import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';

import { waitFor } from '@lapse/devstack';

import { drawTwoItems, headersOf, paymentOf } from './checkout-load.ts';
import { lapse } from './expirers.ts';
import type { Contender, Figures } from './harness.ts';
import { sendLoad, type HttpRequest } from './http-load.ts';
import { clearRound, countArmed, placeArmed, type PendingSet } from './scale-set.ts';
import { apiKey } from './shops.ts';
import { warmUp } from './stage.ts';

/** Of the loads over HTTP. */
export const connections = 128;

/** More than can be answered, 1/s. */
const mostPerSecond = 16_000;

/** The orders of one load are all paid within this time, s: the load ends when it runs out of them. */
const payWithinSeconds = 120;

/** From the placing of orders that will be due to the first deadline, ms: workers run, and all must be armed. */
const leadMs = 3000;

/** One worker and one partition, as in the bench of lateness. */
const expirer = lapse({ workerCount: 1, partitionCount: 1 });

/** Checkouts over HTTP, then a payment for each of their orders: after a round no more wait than before it. */
export function shoppers(set: PendingSet, seconds: number): Contender {
  return {
    name: set.label,
    async measure(): Promise<Figures> {
      const load = { url: set.url, connections, headers: headersOf(apiKey) };
      const requests = Array.from({ length: mostPerSecond * seconds }, (_, n) => checkout(n));
      const placed = await sendLoad({ ...load, seconds, requests });
      const count = placed.answeredCount;
      await expectRows(set, { pending: count, events: count, keys: count });
      await untilArmed(set, set.size + count);

      await set.database.query('checkpoint');
      const payments = await readPayments(set);
      const paid = await sendLoad({ ...load, seconds: payWithinSeconds, requests: payments });
      if (paid.answeredCount !== count) throw new Error(`${paid.answeredCount} of ${count} orders were paid`);
      await expectRows(set, { paid: count, payments: count, events: 2 * count, keys: 2 * count });
      await untilArmed(set, set.size);
      await clearRound(set);
      return {
        'checkouts/s': placed.perSecond,
        'checkout p50 ms': placed.p50Ms,
        'checkout p99 ms': placed.p99Ms,
        'payments/s': paid.perSecond,
        'payment p50 ms': paid.p50Ms,
        'payment p99 ms': paid.p99Ms,
      };
    },
  };
}

/** How late orders are cancelled that are due among those that are not. A worker runs only in these rounds. */
export function latecomers(set: PendingSet, due: { perSecond: number; seconds: number }): Contender {
  return {
    name: set.label,
    async measure(): Promise<Figures> {
      const worker = await expirer.start(set);
      try {
        const warming = { orderCount: warmUp.orderCount, dueInMs: leadMs, spreadMs: 0 };
        const counting = {
          orderCount: due.perSecond * due.seconds,
          dueInMs: leadMs + warmUp.beforeMs,
          spreadMs: due.seconds * 1000,
        };
        const readyBy = Date.now() + leadMs;
        await placeArmed(set, warming);
        const counted = (await placeArmed(set, counting)).map(({ orderId }) => orderId);
        if (Date.now() > readyBy) throw new Error('the orders were due before they were armed');
        // Nobody asks the database while they are cancelled.
        await delay(counting.dueInMs + counting.spreadMs);
        const count = warming.orderCount + counting.orderCount;
        await waitFor(
          () => {
            worker.expectAlive();
            return hasRows(set, { cancelled: count, events: 2 * count, keys: count });
          },
          { what: `${count} orders to be cancelled`, timeoutMs: 30_000 },
        );
        const figures = await readLateness(set, counted);
        await clearRound(set);
        return figures;
      } finally {
        await worker.stop();
      }
    },
  };
}

/** Flushes a set's Redis and waits until a worker has armed every deadline again. */
export async function rebuildSet(set: PendingSet): Promise<Figures> {
  const { database, redis, size } = set;
  const worker = await expirer.start(set);
  try {
    const flushedAt = new Date();
    await redis.flushdb();
    const { tookMs, armedCount } = await waitFor(
      async () => {
        worker.expectAlive();
        const { rows } = await database.query<{ tookMs: number; armedCount: number }>(
          `select (extract(epoch from done_at - started_at) * 1000)::float8 as "tookMs", armed_count as "armedCount"
           from rebuilds where done_at is not null and started_at >= $1`,
          [flushedAt],
        );
        return rows[0];
      },
      { what: 'the rebuild', timeoutMs: 30_000 + size / 4 },
    );
    const allMs = Date.now() - flushedAt.getTime();
    const left = (await countArmed(set)) - size;
    if (armedCount !== size || left < 0 || left > 1) {
      throw new Error(`${armedCount} deadlines of ${size} were armed again, ${left} more are there`);
    }
    return {
      'deadlines/s': size / (tookMs / 1000),
      'rebuild s': tookMs / 1000,
      'from the flush s': allMs / 1000,
    };
  } finally {
    await worker.stop();
  }
}

function checkout(n: number): HttpRequest {
  return {
    path: '/v1/orders',
    headers: { 'idempotency-key': randomUUID() },
    body: JSON.stringify({
      reference: `cart-${n}`,
      channel: 'web',
      currency: 'EUR',
      items: drawTwoItems(),
      metadata: { customer: `customer-${n}`, campaign: 'autumn' },
    }),
  };
}

/** A payment for each order that came after the set. */
async function readPayments({ database, lastId }: PendingSet): Promise<readonly HttpRequest[]> {
  const { rows } = await database.query<{ id: string; amount: number }>(
    'select id, amount from orders where id > $1 order by id',
    [lastId],
  );
  return rows.map(paymentOf);
}

async function readLateness({ database }: PendingSet, orderIds: readonly string[]): Promise<Figures> {
  const { rows } = await database.query<{ late: readonly number[] }>(
    `select percentile_disc(array[0.5, 0.99, 1]) within group (
       order by extract(epoch from cancelled_at - expire_at)::float8 * 1000
     ) as late
     from orders where id = any ($1)`,
    [orderIds],
  );
  const [p50, p99, most] = rows[0]?.late ?? [];
  return { 'p50 ms': p50 ?? NaN, 'p99 ms': p99 ?? NaN, 'max ms': most ?? NaN };
}

/** Rows that came after the set. */
interface LaterRows {
  readonly pending: number;
  readonly paid: number;
  readonly cancelled: number;
  readonly payments: number;
  readonly events: number;
  readonly keys: number;
}

const none: LaterRows = { pending: 0, paid: 0, cancelled: 0, payments: 0, events: 0, keys: 0 };

async function countRows({ database, lastId }: PendingSet): Promise<LaterRows> {
  const { rows } = await database.query<LaterRows>(
    `select
       count(*) filter (where status = 'pending_payment') as pending,
       count(*) filter (where status = 'paid') as paid,
       count(*) filter (where status = 'cancelled') as cancelled,
       (select count(*) from payments where outcome = 'paid') as payments,
       (select count(*) from events where order_id > $1) as events,
       (select count(*) from idempotency_keys where order_id > $1) as keys
     from orders where id > $1`,
    [lastId],
  );
  return { ...none, ...rows[0] };
}

/** @param wanted those that are not named are 0 */
async function hasRows(set: PendingSet, wanted: Partial<LaterRows>): Promise<boolean> {
  return isDeepStrictEqual(await countRows(set), { ...none, ...wanted });
}

/** @throws Error unless the rows that came after the set are these; those that are not named are 0 */
async function expectRows(set: PendingSet, wanted: Partial<LaterRows>): Promise<void> {
  const found = await countRows(set);
  if (isDeepStrictEqual(found, { ...none, ...wanted })) return;
  throw new Error(`${set.label}: rows are ${JSON.stringify(found)}, wanted were ${JSON.stringify(wanted)}`);
}

async function untilArmed(set: PendingSet, wanted: number): Promise<void> {
  await waitFor(async () => (await countArmed(set)) === wanted, {
    what: `${wanted} jobs to be armed`,
    timeoutMs: 30_000,
  });
}
