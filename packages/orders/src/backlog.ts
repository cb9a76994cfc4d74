import type { Queryable, Statement } from '@lapse/runtime';
import { isHolding } from './freeze.ts';

const readPartitions: Statement = {
  name: 'pending_partitions',
  // Hops from value to value in the index: a distinct would read every pending order.
  text: `
    with recursive named (partition) as (
      (select partition from orders where status = 'pending_payment' order by partition limit 1)
      union all
      select (
        select o.partition from orders o
        where o.status = 'pending_payment' and o.partition > named.partition
        order by o.partition
        limit 1
      )
      from named
      where named.partition is not null
    )
    select partition from named where partition is not null`,
};

/** The partitions that pending orders name. */
export async function pendingPartitions(db: Queryable): Promise<number[]> {
  const rows = await db.query<{ partition: number }>(readPartitions);
  return rows.map(({ partition }) => partition);
}

/** How far expiry is behind. What waits for a payment provider, or for a thaw, is not late: expiry has done its part. */
export interface Backlog {
  /** Pending orders that are overdue, those that the brake holds among them; counted up to 10,000. */
  readonly overdueCount: number;
  /** How long the oldest of them has been overdue, ms. */
  readonly oldestOverdueMs: number;
}

const readOverdue: Statement = {
  name: 'backlog',
  text: `
    with late as materialized (
      select * from orders o
      -- A scalar subquery, so that the index is read no further than to now.
      where o.status = 'pending_payment' and o.check_at <= (select clock_timestamp())
      order by o.check_at
      -- However much is frozen: a sweep reaches no further either.
      limit 20000
    ), overdue as (
      select o.expire_at from late o
      where o.open_attempt_count = 0 and not coalesce((
        select true from freezes f
        where f.kind = 'freeze' and f.state <> 'done' and ${isHolding}
        limit 1
      ), false)
    )
    select
      least(count(*), 10000) as "overdueCount",
      coalesce(extract(epoch from clock_timestamp() - min(expire_at)) * 1000, 0)::float8 as "oldestOverdueMs"
    from overdue`,
};

/** Reads how far expiry is behind. Bounded work, however large the backlog. */
export async function readBacklog(db: Queryable): Promise<Backlog> {
  const [row] = await db.query<Backlog>(readOverdue);
  return row ?? { overdueCount: 0, oldestOverdueMs: 0 };
}
