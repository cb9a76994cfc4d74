import { ErrorCode, type Queue } from 'bullmq';
import type { RedisConnection } from '@lapse/runtime';
import { isOrderId, jobName } from './catalog.ts';
import { firesAtMs } from './inspect.ts';
import { addJobs, asError, NoOrderId, NoReply, removeJob, type Armed, type TimedJob } from './jobs.ts';

/** A job that fires this close to its instant stays as it is, ms. `changeDelay` itself is exact to 1 ms. */
const closeEnoughMs = 5;

/**
 * Makes the jobs of one queue be what the deadlines say, whatever is there: adds those that are missing, moves those
 * that are delayed to another instant, replaces kept failed and completed ones, which would swallow the add. A job a
 * worker has in hand stays: `not_due` will delay it again.
 *
 * Measured with 100,000 deadlines: 26,000 a second missing, 121,000 in place, 42,000 moved.
 *
 * @param name what jobs that are added are called. Default `expire`
 */
export async function placeJobs(
  redis: RedisConnection,
  queue: Queue,
  deadlines: readonly TimedJob[],
  name: string = jobName,
): Promise<readonly Armed[]> {
  const placed = new Map<TimedJob, Armed>();
  const toAdd: TimedJob[] = [];
  const toReplace: TimedJob[] = [];
  const toMove: TimedJob[] = [];

  for (const [deadline, job] of await findJobs(redis, queue, deadlines)) {
    if (job instanceof Error) placed.set(deadline, job);
    else if (job.firesAtMs === null) (job.exists ? toReplace : toAdd).push(deadline);
    else if (Math.abs(job.firesAtMs - deadline.expireAt.getTime()) > closeEnoughMs) toMove.push(deadline);
    else placed.set(deadline, 'armed');
  }
  await each(toMove, placed, async (deadline) => {
    if (await moveJob(queue, deadline)) placed.set(deadline, 'armed');
    // It fired, or was removed, since we looked.
    else toReplace.push(deadline);
  });
  await each(toReplace, placed, async (deadline) => {
    // Where a worker has it, nothing is removed and the add is swallowed, as it should be.
    await removeJob(queue, deadline.orderId);
    toAdd.push(deadline);
  });
  if (toAdd.length > 0) {
    const added = await addJobs(queue, toAdd, name);
    toAdd.forEach((deadline, index) => placed.set(deadline, added[index] ?? new NoReply()));
  }
  return deadlines.map((deadline) => placed.get(deadline) ?? new NoReply());
}

interface FoundJob {
  readonly exists: boolean;
  readonly firesAtMs: number | null;
}

async function findJobs(
  redis: RedisConnection,
  queue: Queue,
  deadlines: readonly TimedJob[],
): Promise<readonly (readonly [TimedJob, FoundJob | Error])[]> {
  const orderIds = deadlines.map(({ orderId }) => orderId).filter(isOrderId);
  if (orderIds.length === 0) return deadlines.map((deadline) => [deadline, new NoOrderId(deadline.orderId)]);
  const [scores, existing] = await Promise.all([
    redis.zmscore(queue.toKey('delayed'), ...orderIds),
    findExisting(redis, queue, orderIds),
  ]);
  const scoreOf = new Map(orderIds.map((orderId, n) => [orderId, scores[n] ?? null]));
  return deadlines.map((deadline) => {
    const score = scoreOf.get(deadline.orderId);
    if (score === undefined) return [deadline, new NoOrderId(deadline.orderId)];
    return [deadline, { exists: existing.has(deadline.orderId), firesAtMs: firesAtMs(score) }];
  });
}

/** Which of these jobs there are. Mostly it is none (after a flush) or all, and one command tells that. */
async function findExisting(
  redis: RedisConnection,
  queue: Queue,
  orderIds: readonly string[],
): Promise<ReadonlySet<string>> {
  const keys = orderIds.map((orderId) => queue.toKey(orderId));
  const count = await redis.exists(...keys);
  if (count === 0) return new Set();
  if (count === keys.length) return new Set(orderIds);
  const pipeline = redis.pipeline();
  for (const key of keys) pipeline.exists(key);
  const replies = (await pipeline.exec()) ?? [];
  return new Set(
    orderIds.filter((_, n) => {
      const [error, exists] = replies[n] ?? [new NoReply()];
      if (error !== null) throw error;
      return exists === 1;
    }),
  );
}

/** Whether it was there, delayed, to be moved. */
async function moveJob(queue: Queue, { orderId, expireAt }: TimedJob): Promise<boolean> {
  try {
    // Relative to now; a negative delay is taken for now, too.
    await queue.getBackend().changeDelay(orderId, Math.max(0, expireAt.getTime() - Date.now()));
    return true;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === ErrorCode.JobNotExist || code === ErrorCode.JobNotInState) return false;
    throw error;
  }
}

/** Runs `work` for all together; one that throws is placed as failed and does not take the others along. */
async function each(
  deadlines: readonly TimedJob[],
  placed: Map<TimedJob, Armed>,
  work: (deadline: TimedJob) => Promise<void>,
): Promise<void> {
  await Promise.all(
    deadlines.map(async (deadline) => {
      try {
        await work(deadline);
      } catch (error) {
        placed.set(deadline, asError(error));
      }
    }),
  );
}
