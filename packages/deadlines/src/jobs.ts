import type { JobJson, Queue } from 'bullmq';
import { eventStreamLength, isOrderId, jobName } from './catalog.ts';

/** The instant to look at an order. */
export interface Deadline {
  readonly orderId: string;
  /** The partition stored on the order's row, 0 to 63. */
  readonly partition: number;
  /** When the order was placed; what Bull Board shows as the job's age. */
  readonly createdAt: Date;
  /** Deadline plus grace: when the job fires. In the past: at once. */
  readonly expireAt: Date;
}

/** A job of an order and when it fires, in a queue that is known. */
export type TimedJob = Omit<Deadline, 'partition'>;

/** What became of one job of a batch. */
export type Armed = 'armed' | Error;

/** BullMQ takes some ids silently for its own keys (`meta`), so nothing but order ids is let in. */
export class NoOrderId extends Error {
  readonly code = 'no_order_id';

  constructor(id: string) {
    super(`'${id}' is not an order id`);
    this.name = 'NoOrderId';
  }
}

/** @throws NoOrderId */
export function checkOrderId(id: string): void {
  if (!isOrderId(id)) throw new NoOrderId(id);
}

/**
 * Adds the jobs of one queue in a single round trip; each has its own result. (BullMQ's `addBulk` throws the first
 * error it finds and says nothing about the other jobs, most of which were added.) An id that exists in any state,
 * kept failed jobs included, is left as it is and reported as armed.
 *
 * @param deadlines whose order ids were checked
 * @param name what the jobs are called. Default `expire`
 */
export async function addJobs(
  queue: Queue,
  deadlines: readonly TimedJob[],
  name: string = jobName,
): Promise<readonly Armed[]> {
  const backend = queue.getBackend();
  const client = await backend.client;
  const pipeline = client.pipeline();
  await Promise.all(
    deadlines.map((deadline) =>
      backend.addJobToTransaction(pipeline, slimJob(deadline, name), deadline.orderId),
    ),
  );
  // The scripts read the stream's length here, and write their default of 10,000 where it is missing: after a flush.
  pipeline.hset(queue.toKey('meta'), { 'opts.maxLenEvents': eventStreamLength });
  const replies = (await pipeline.exec()) ?? [];
  return deadlines.map((_, index) => {
    const [error] = replies[index] ?? [new NoReply()];
    return error ?? 'armed';
  });
}

/** What every job begins with. */
export const freshJob = {
  progress: 0,
  attemptsMade: 0,
  attemptsStarted: 0,
  stalledCounter: 0,
  failedReason: '',
  returnvalue: '',
} as const satisfies Partial<JobJson>;

/** A job with `delay` as its only option; the catalogue says what that saves. */
function slimJob({ orderId, createdAt, expireAt }: TimedJob, name: string): JobJson {
  return {
    id: orderId,
    name,
    data: '{}',
    timestamp: createdAt.getTime(),
    opts: { delay: Math.max(0, expireAt.getTime() - createdAt.getTime()) },
    ...freshJob,
  };
}

/** Removes a job from wherever it is, unless a worker has it. `removed` also answers for a job that never was. */
export async function removeJob(queue: Queue, orderId: string): Promise<'removed' | 'locked'> {
  return (await queue.getBackend().remove(orderId, false)) === 1 ? 'removed' : 'locked';
}

/** Redis answered fewer commands than it was sent; never seen. */
export class NoReply extends Error {
  readonly code = 'no_reply';

  constructor() {
    super('redis gave no reply');
    this.name = 'NoReply';
  }
}

/** Whatever was thrown, as an error. */
export function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
