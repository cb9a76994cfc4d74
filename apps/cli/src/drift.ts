import { setTimeout as delay } from 'node:timers/promises';
import { maxPartitionCount, type Deadlines } from '@lapse/deadlines';
import type { Orders, PendingCursor } from '@lapse/orders';
import { OperatorError } from '@lapse/runtime';

const pageSize = 1000;

/** How long Redis may take to be reached, ms: sentinels are asked one by one, a cluster for its slots. */
const connectMs = 3000;

/** `lapse drift`: compares all pending rows with all armed jobs, changes nothing, and says how many differ. */
export async function showDrift(orders: Orders, deadlines: Deadlines): Promise<void> {
  if (!(await isReached(deadlines))) {
    throw new OperatorError('Redis cannot be reached. Is it running, and is REDIS_URL right?');
  }
  const all = Array.from({ length: maxPartitionCount }, (_, partition) => partition);
  const answering = new Set((await deadlines.epochs(all)).keys());
  const away = all.filter((partition) => !answering.has(partition));
  if (away.length > 0) {
    console.log(`Left out, because their node of Redis does not answer: partitions ${away.join(', ')}.`);
  }
  const rows = await countRowsWithoutJob(orders, deadlines, answering);
  console.log(`${rows.pending} pending orders, ${rows.lacking} without a delayed job.`);
  const jobs = await countJobsWithoutRow(orders, deadlines, answering);
  console.log(`${jobs.armed} delayed jobs, ${jobs.orphans} without a pending order.`);
  if (rows.lacking > 0)
    console.log('Orders that are due just now count, too. `lapse rebuild` arms all of them again.');
}

/** A producer's connection refuses what is asked before it stands, and it was begun a moment ago. */
async function isReached(deadlines: Deadlines): Promise<boolean> {
  const giveUpAt = performance.now() + connectMs;
  while (!(await deadlines.reachable())) {
    if (performance.now() > giveUpAt) return false;
    await delay(50);
  }
  return true;
}

async function countRowsWithoutJob(
  orders: Orders,
  deadlines: Deadlines,
  partitions: ReadonlySet<number>,
): Promise<{ pending: number; lacking: number }> {
  const counts = { pending: 0, lacking: 0 };
  let after: PendingCursor | null = null;
  do {
    const page = await orders.pendingPage({ after, limit: pageSize, partitions: null });
    const compared = page.deadlines.filter(({ partition }) => partitions.has(partition));
    counts.pending += compared.length;
    counts.lacking += (await deadlines.lacking(compared)).length;
    after = page.next;
  } while (after !== null);
  return counts;
}

async function countJobsWithoutRow(
  orders: Orders,
  deadlines: Deadlines,
  partitions: ReadonlySet<number>,
): Promise<{ armed: number; orphans: number }> {
  const counts = { armed: 0, orphans: 0 };
  for (const partition of partitions) {
    let after: number | null = 0;
    while (after !== null) {
      const page = await deadlines.armedPage(partition, { after, limit: pageSize });
      const pending = await orders.pendingAmong(page.orderIds);
      counts.armed += page.orderIds.length;
      counts.orphans += page.orderIds.length - pending.size;
      after = page.next;
    }
  }
  return counts;
}
