import type { Queryable, Statement } from '@lapse/runtime';

/** How much money waits for a person. */
export interface WorkSize {
  /** Payments on the work list; counted up to 10,000. */
  readonly count: number;
  /** How long the one that waits longest is on it, ms. */
  readonly oldestMs: number;
}

const measure: Statement = {
  name: 'work_size',
  text: `
    select
      count(*) as count,
      coalesce(extract(epoch from clock_timestamp() - min(listed_at)) * 1000, 0)::float8 as "oldestMs"
    from (
      select p.listed_at from payments p
      where p.listed_at is not null and p.resolved_at is null
      order by p.listed_at
      limit 10000
    ) as listed`,
};

/** Reads how long the work list is. */
export async function measureWork(db: Queryable): Promise<WorkSize> {
  const [row] = await db.query<WorkSize>(measure);
  return row ?? { count: 0, oldestMs: 0 };
}
