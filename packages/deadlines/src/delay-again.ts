import { DelayedError, type Job } from 'bullmq';

/** Least wait of a job that was not due, ms. A clock that is a little ahead must not spin. */
const leastWaitMs = 25;

/**
 * Delays a job in hand again: how it ends when it is too early, or nothing can be said now.
 *
 * @param onFailed hears why Redis did not take it; the job then comes back as stalled
 * @throws DelayedError always, which is how BullMQ is told
 */
export async function delayAgain(
  job: Job<unknown, string>,
  token: string | undefined,
  waitMs: number,
  onFailed: (error: unknown) => void,
): Promise<never> {
  try {
    // Relative to this worker's clock: an absolute instant would fire at once, again and again, on a fast clock.
    await job.moveToDelayed(Date.now() + Math.max(leastWaitMs, Math.ceil(waitMs)), token);
  } catch (error) {
    // Thrown further it would fail the job. Left alone, its lock runs out and the stalled check brings it back.
    onFailed(error);
  }
  throw new DelayedError();
}
