import { setTimeout as delay } from 'node:timers/promises';

import { waitFor } from '@lapse/devstack';

import type { Load } from './load.ts';
import { planProbe } from './plan.ts';
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

/** Waits until no order is pending, or longer than the slowest fault may take. */
export async function untilSettled(system: System): Promise<void> {
  await waitFor(async () => (await countPending(system)) === 0, {
    what: 'all orders to be settled',
    timeoutMs: patienceMs,
  }).catch(() => undefined);
}

/** How late the orders were whose time is over. */
export async function readLateness({ database }: System): Promise<Lateness> {
  const { rows } = await database.query<Lateness>(
    `select
       percentile_disc(0.5) within group (order by late) as p50,
       percentile_disc(0.99) within group (order by late) as p99,
       max(late) as max,
       avg((actor = 'sweeper')::int)::float8 as "sweptShare"
     from (
       select actor, (data->>'latenessMs')::float8 as late from events
       where type = 'order.cancelled' and data->>'reason' = 'payment_timeout'
     ) as expired`,
  );
  return rows[0] ?? { p50: null, p99: null, max: null, sweptShare: null };
}
