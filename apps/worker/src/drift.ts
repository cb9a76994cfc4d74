import type { Deadlines } from '@lapse/deadlines';
import type { Orders, PendingCursor, PendingDeadline } from '@lapse/orders';
import { Gauge, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How often a page is compared, ms. */
const compareEveryMs = 2000;

/** Rows, and jobs, compared at a time: two round trips to each server, about 15 ms. */
const pageSize = 1000;

/** A page of which this share lacks its jobs is no accident: Redis was restored from an old file. */
const rebuildShare = 0.1;

/** Younger orders may be on their way to Redis, nearer deadlines on their way out: neither is compared, ms. */
const settlingMs = 5000;

/**
 * Compares pending rows with armed jobs, a page at a time, round and round: arms what lacks a job, removes jobs that
 * no pending order stands behind. It finds what no signal tells, such as a Redis restored from an old file.
 */
export function drift(options: {
  orders: Orders;
  deadlines: Deadlines;
  partitions: () => Promise<readonly number[]>;
  log: Log;
  metrics: Metrics;
}): Service {
  const { orders, deadlines, log, metrics, partitions } = options;
  const registers = [metrics];
  const rows = new Round(
    new Gauge({
      name: 'lapse_drift_rows_without_job',
      help: 'Pending orders that had no job, in the last full round',
      registers,
    }),
  );
  const jobs = new Round(
    new Gauge({
      name: 'lapse_drift_jobs_without_row',
      help: 'Jobs without a pending order, in the last full round',
      registers,
    }),
  );
  let rowsAfter: PendingCursor | null = null;
  let jobsAt: { readonly partition: number; readonly after: number } | undefined;

  const compareRows = async (): Promise<void> => {
    const page = await orders.pendingPage({ after: rowsAfter, limit: pageSize, partitions: null });
    const compared = page.deadlines.filter(isQuiet);
    const lacking = await deadlines.lacking(compared);
    rows.add(lacking.length);
    if (lacking.length >= Math.max(50, compared.length * rebuildShare)) {
      await orders.requestRebuild({ reason: 'many jobs are missing', actor: 'worker', partitions: null });
    } else if (lacking.length > 0) {
      await deadlines.armMany(lacking);
      log.warn({ orderCount: lacking.length }, 'deadlines without a job were armed');
    }
    rowsAfter = page.next;
    if (page.next === null) rows.end();
  };

  const compareJobs = async (): Promise<void> => {
    const all = (await partitions()).toSorted((a, b) => a - b);
    const { partition, after } = jobsAt ?? { partition: all[0] ?? 0, after: 0 };
    let page: Awaited<ReturnType<Deadlines['armedPage']>>;
    try {
      page = await deadlines.armedPage(partition, { after, limit: pageSize });
    } catch (error) {
      // Its node of the cluster is away: the other partitions are compared meanwhile.
      jobsAt = behind(partition, null, all);
      throw error;
    }
    const pending = await orders.pendingAmong(page.orderIds);
    const orphans = page.orderIds.filter((orderId) => !pending.has(orderId));
    jobs.add(orphans.length);
    await Promise.all(orphans.map((orderId) => deadlines.disarm({ orderId, partition })));
    if (orphans.length > 0)
      log.info({ partition, jobCount: orphans.length }, 'jobs without an order were removed');
    jobsAt = behind(partition, page.next, all);
    if (jobsAt === undefined) jobs.end();
  };

  return periodic({
    name: 'drift',
    everyMs: compareEveryMs,
    log,
    async task() {
      if (!(await deadlines.reachable())) return;
      await compareRows();
      await compareJobs();
    },
  });
}

/** Where the comparison of jobs goes on: in this partition, in the next one, or (undefined) at the beginning. */
function behind(
  partition: number,
  next: number | null,
  all: readonly number[],
): { partition: number; after: number } | undefined {
  if (next !== null) return { partition, after: next };
  const following = all.find((other) => other > partition);
  return following === undefined ? undefined : { partition: following, after: 0 };
}

function isQuiet({ createdAt, expireAt }: PendingDeadline): boolean {
  const now = Date.now();
  return createdAt.getTime() < now - settlingMs && expireAt.getTime() > now + settlingMs;
}

/** Counts over a round of pages; the gauge shows the last full one. */
class Round {
  readonly #gauge: Gauge;
  #count = 0;

  constructor(gauge: Gauge) {
    this.#gauge = gauge;
  }

  add(count: number): void {
    this.#count += count;
  }

  end(): void {
    this.#gauge.set(this.#count);
    this.#count = 0;
  }
}
