import { setTimeout as delay } from 'node:timers/promises';

import { waitFor } from '@lapse/devstack';
import { createOrders } from '@lapse/orders';
import type { Database } from '@lapse/runtime';

import type { Load } from './load.ts';
import { planProbe } from './plan.ts';
import { providerNames } from './services.ts';
import type { System } from './system.ts';

/** How late expired orders were cancelled, ms, and how many of them by the sweeper. */
export interface Lateness {
  readonly p50: number | null;
  readonly p99: number | null;
  readonly max: number | null;
  readonly sweptShare: number | null;
}

/** How soon everything worked again. */
export interface Recovery {
  /** From the end of the faults to the first 201, ms; null when there was none. */
  readonly takesOrdersAfterMs: number | null;
  /** From the end of the faults until a deadline is kept by its own job within 1 s, ms; null when none was. */
  readonly keepsTimeAfterMs: number | null;
}

/** How long after everything is healed orders may be pending or deadlines be late, ms. */
export const patienceMs = 45_000;

/** Places lapsing orders until one is cancelled by its own job in time. */
export async function probe(system: System, load: Load, seed: string, healedAt: number): Promise<Recovery> {
  let takesOrdersAfterMs: number | null = null;
  let keepsTimeAfterMs: number | null = null;
  const probing = new Set<Promise<void>>();
  const one = async (n: number): Promise<void> => {
    const planned = planProbe(seed, n);
    const { told } = await load.live(planned);
    const order = told[0]?.order;
    if (order === undefined) return;
    takesOrdersAfterMs ??= Date.now() - healedAt;
    await delay(planned.paymentWindowMs + 1100);
    const { rows } = await system.database
      .query<{ at: Date }>(
        `select at from events
         where order_id = $1 and type = 'order.cancelled' and actor = 'worker'
           and (data->>'latenessMs')::float8 <= 1000`,
        [order.id],
      )
      .catch(() => ({ rows: [] }));
    const at = rows[0]?.at.getTime();
    if (at === undefined) return;
    const afterMs = Math.max(0, at - planned.paymentWindowMs - healedAt);
    keepsTimeAfterMs = Math.min(keepsTimeAfterMs ?? afterMs, afterMs);
  };
  const isOver = (): boolean => keepsTimeAfterMs !== null || Date.now() > healedAt + patienceMs;
  for (let n = 0; !isOver(); n += 1) {
    const probed = one(n).finally(() => probing.delete(probed));
    probing.add(probed);
    await delay(250);
  }
  await Promise.all(probing);
  return { takesOrdersAfterMs, keepsTimeAfterMs };
}

/** How many orders wait for their money. */
export async function countPending({ database }: System): Promise<number> {
  const { rows } = await database.query<{ count: number }>(
    "select count(*) from orders where status = 'pending_payment'",
  );
  return rows[0]?.count ?? 0;
}

/** What is under way: nobody can say yet how it ends. */
export interface Unsettled {
  readonly pendingOrders: number;
  /** Of pending orders, and of settled ones that nobody shall pay again. */
  readonly openAttempts: number;
  /** That have neither arrived nor failed. */
  readonly openRefunds: number;
}

/** Counts what is under way. */
async function countUnsettled({ database }: System): Promise<Unsettled> {
  const { rows } = await database.query<Unsettled>(
    `select
       (select count(*) from orders where status = 'pending_payment') as "pendingOrders",
       (select count(*) from payment_attempts where ended_at is null) as "openAttempts",
       (select count(*) from refunds where state in ('due', 'sent')) as "openRefunds"`,
  );
  return rows[0] ?? { pendingOrders: 0, openAttempts: 0, openRefunds: 0 };
}

/**
 * Lets everything come to its end: the payment providers do nothing wrong any more, and are asked about all that is
 * open, as by `lapse reconcile`. Waits until nothing is under way, or longer than the slowest fault may take.
 */
export async function settle(system: System): Promise<Unsettled> {
  const { database, services } = system;
  services.behave();
  // What is told now need not be asked for.
  await services.idle();
  const orders = createOrders({ database });
  for (const provider of providerNames) await orders.requestReconcile({ provider, sinceMs: null });
  await waitFor(async () => Object.values(await countUnsettled(system)).every((count) => count === 0), {
    what: 'everything to be settled',
    timeoutMs: patienceMs,
  }).catch(() => undefined);
  return countUnsettled(system);
}

/** How late the orders were whose time is over. Those that had to wait for the word of a payment provider do not count. */
export async function readLateness({ database }: System): Promise<Lateness> {
  const { rows } = await database.query<Lateness>(
    `select
       percentile_disc(0.5) within group (order by late) as p50,
       percentile_disc(0.99) within group (order by late) as p99,
       max(late) as max,
       avg((actor = 'sweeper')::int)::float8 as "sweptShare"
     from (
       select actor, (data->>'latenessMs')::float8 as late from events
       where type = 'order.cancelled' and data->>'reason' = 'payment_timeout' and not exists (
         select from events fence where fence.order_id = events.order_id and fence.type = 'order.closing'
       )
     ) as expired`,
  );
  return rows[0] ?? { p50: null, p99: null, max: null, sweptShare: null };
}

/** How many reminders customers got, and how many cancelled orders late money paid after all. */
export async function countTold(database: Database): Promise<Readonly<Record<string, number>>> {
  const { rows } = await database.query<{ what: string; count: number }>(
    `select split_part(type, '.', 2) as what, count(*) as count from events
     where type in ('order.payment_reminder', 'order.reinstated')
     group by type`,
  );
  return Object.fromEntries(rows.map(({ what, count }) => [what, count]));
}
