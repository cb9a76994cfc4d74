import { setTimeout as delay } from 'node:timers/promises';

import { inParallel, waitFor, type RunningApp } from '@lapse/devstack';
import type { Database } from '@lapse/runtime';

import type { Fleet } from './fleet.ts';

/** Customers who order, side by side. */
const laneCount = 5;

/** How long each waits before the next order: about 100 orders a second together, ms. */
const pauseMs = 40;

/** Windows of orders under load: 1 to 3 s. */
const shortestWindowMs = 1000;
const longestWindowMs = 3000;

const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];

/** Customers who order steadily; every second one pays at once, the others never do. */
export interface SteadyLoad {
  /** Ends the load. @throws what a checkout or a payment threw: any answer but 201 and 200 */
  stop(): Promise<{ placedCount: number; paidCount: number; slowestMs: number }>;
}

/** Begins to order of SKU `mug`. */
export function startLoad({ client }: Fleet): SteadyLoad {
  const over = new AbortController();
  let placedCount = 0;
  let paidCount = 0;
  let slowestMs = 0;
  const lane = async (n: number): Promise<void> => {
    while (!over.signal.aborted) {
      const window = shortestWindowMs + ((placedCount * 37 + n) % (longestWindowMs - shortestWindowMs));
      const startedAt = performance.now();
      const order = await client.checkout({ currency: 'EUR', items, paymentWindowMs: window });
      slowestMs = Math.max(slowestMs, performance.now() - startedAt);
      placedCount += 1;
      if (placedCount % 2 === 0) {
        const payment = { provider: 'shop', providerPaymentId: order.id, amount: 100, currency: 'EUR' };
        await client.pay(order.id, payment);
        paidCount += 1;
      }
      await delay(pauseMs);
    }
  };
  const lanes = inParallel(laneCount, laneCount, lane);
  // `stop` tells; until then it must not be an unhandled rejection.
  lanes.catch(() => undefined);
  return {
    async stop() {
      over.abort();
      await lanes;
      return { placedCount, paidCount, slowestMs: Math.round(slowestMs) };
    },
  };
}

/** A cancellation for time, and who did it. */
interface Cancellation {
  readonly partition: number;
  readonly actor: string;
  readonly latenessMs: number;
}

/** Cancellations for time of orders whose deadline lay at or after `since`, by PostgreSQL's clock. */
export async function cancellationsSince(database: Database, since: Date): Promise<readonly Cancellation[]> {
  const { rows } = await database.query<Cancellation>(
    `select o.partition, e.actor, (e.data->>'latenessMs')::float8 as "latenessMs"
     from events e
     join orders o on o.id = e.order_id
     where e.type = 'order.cancelled' and o.cancel_reason = 'payment_timeout' and o.expire_at >= $1`,
    [since],
  );
  return rows;
}

/**
 * Places orders until in each of these partitions one was cancelled by its job, and not by the sweeper only.
 *
 * @returns the partitions where jobs fired, those of the others included
 * @throws DevstackError `not_ready` when the time is over
 */
export async function untilJobsFire(
  fleet: Fleet,
  partitions: readonly number[],
  timeoutMs: number,
): Promise<ReadonlySet<number>> {
  const fired = new Set<number>();
  return waitFor(
    async () => {
      const placed = await inParallel(32, 8, () =>
        fleet.client.checkout({ currency: 'EUR', items, paymentWindowMs: shortestWindowMs }),
      );
      const cancelled = await waitFor(() => allCancelled(fleet.database, placed), {
        what: 'orders to be cancelled, by whomever',
        timeoutMs: 20_000,
      });
      for (const { actor, partition } of cancelled) if (actor === 'worker') fired.add(partition);
      return partitions.every((partition) => fired.has(partition)) && fired;
    },
    { what: `jobs of partitions ${partitions.join(', ')} to fire`, timeoutMs },
  );
}

/** Who cancelled these orders; undefined until all of them are. */
async function allCancelled(
  database: Database,
  orders: readonly { readonly id: string }[],
): Promise<readonly Pick<Cancellation, 'partition' | 'actor'>[] | undefined> {
  const { rows } = await database.query<Cancellation>(
    `select o.partition, e.actor from events e
     join orders o on o.id = e.order_id
     where e.type = 'order.cancelled' and o.id = any ($1)`,
    [orders.map(({ id }) => id)],
  );
  return rows.length === orders.length ? rows : undefined;
}

/** Says how late cancellations were and how many of them the sweeper did. */
export function describeLateness(name: string, cancellations: readonly Cancellation[]): string {
  const lateness = cancellations.map(({ latenessMs }) => latenessMs).toSorted((a, b) => a - b);
  const at = (share: number): number => Math.round(lateness[Math.ceil(share * lateness.length) - 1] ?? 0);
  const sweptCount = cancellations.filter(({ actor }) => actor === 'sweeper').length;
  return (
    `${name}: ${lateness.length} cancelled, p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, max ${at(1)} ms late, ` +
    `${sweptCount} by the sweeper`
  );
}

/** Signs in at an ops app and reads the queues that Bull Board shows. */
export async function readBoard(
  ops: RunningApp,
): Promise<readonly { readonly counts: { readonly delayed: number }; readonly description: string }[]> {
  const login = await fetch(`${ops.url}/login`, {
    method: 'POST',
    redirect: 'manual',
    body: new URLSearchParams({ user: 'ops', password: 'test-password' }),
  });
  const cookie = login.headers
    .getSetCookie()
    .map((one) => one.split(';', 1)[0])
    .join('; ');
  const answer = await fetch(`${ops.url}/queues/api/queues`, { headers: { cookie } });
  if (answer.status !== 200) throw new Error(`Bull Board answered ${answer.status}`);
  const { queues } = (await answer.json()) as { queues: Awaited<ReturnType<typeof readBoard>> };
  return queues;
}
