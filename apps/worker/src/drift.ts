import { setTimeout as delay } from 'node:timers/promises';
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

/** How long a page that lacks much is given before it is believed, ms: a thaw may be about to arm what it moved. */
const lookAgainMs = 1000;

/**
 * Compares pending rows with armed jobs, a page at a time, round and round: arms what lacks a job, removes jobs that
 * no pending order stands behind. It finds what no signal tells, such as a Redis restored from an old file.
 *
 * @param options.clock while it is wrong nothing is compared: it says which rows are too young or too near
 */
export function drift(options: {
  orders: Orders;
  deadlines: Deadlines;
  partitions: () => Promise<readonly number[]>;
  clock: { isRight(): boolean };
  log: Log;
  metrics: Metrics;
}): Service {
  const { orders, deadlines, clock, log, metrics, partitions } = options;
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

  const compareRows = async (stopped: AbortSignal): Promise<void> => {
    const page = await orders.pendingPage({ after: rowsAfter, limit: pageSize, partitions: null });
    const compared = page.deadlines.filter(isQuiet);
    const isMuch = (some: readonly unknown[]): boolean =>
      some.length >= Math.max(50, compared.length * rebuildShare);
    let lacking = await deadlines.lacking(compared);
    if (isMuch(lacking)) {
      await delay(lookAgainMs, undefined, { signal: stopped }).catch(() => undefined);
      if (stopped.aborted) return;
      lacking = await deadlines.lacking(lacking);
    }
    rows.add(lacking.length);
    if (lacking.length > 0) {
      // Also where a rebuild is asked for: it may be under way already, and have passed these.
      const { armed, failed, failedPartitions } = await deadlines.armMany(lacking);
      log.warn({ orderCount: armed, failed }, 'deadlines without a job were armed');
      // Of those that take jobs: the others would lack as much after each rebuild.
      const mended = lacking.filter(({ partition }) => !failedPartitions.has(partition));
      if (isMuch(mended))
        await orders.requestRebuild({
          reason: 'many jobs are missing',
          actor: 'worker',
          partitions: [...new Set(mended.map(({ partition }) => partition))],
        });
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
    if (orphans.length > 0) {
      const { disarmed, failed } = await deadlines.disarmMany(
        orphans.map((orderId) => ({ orderId, partition })),
      );
      log.info({ partition, jobCount: disarmed, failed }, 'jobs without an order were removed');
    }
    jobsAt = behind(partition, page.next, all);
    if (jobsAt === undefined) jobs.end();
  };

  return periodic({
    name: 'drift',
    everyMs: compareEveryMs,
    log,
    async task(stopped) {
      if (!clock.isRight() || !(await deadlines.reachable())) return;
      // Both, whatever becomes of the other.
      const compared = await Promise.allSettled([compareRows(stopped), compareJobs()]);
      for (const one of compared) if (one.status === 'rejected') throw one.reason;
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

/** Counts over a round of pages; the gauge shows the last full one, and nothing before there was one. */
class Round {
  readonly #gauge: Gauge;
  #count = 0;

  constructor(gauge: Gauge) {
    this.#gauge = gauge;
    // It begins with 0, which would say that nothing differs.
    gauge.remove();
  }

  add(count: number): void {
    this.#count += count;
  }

  end(): void {
    this.#gauge.set(this.#count);
    this.#count = 0;
  }
}
