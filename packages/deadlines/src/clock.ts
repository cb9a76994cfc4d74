import { Gauge, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How far a worker's clock may be off the database's, ms. */
const maxOffsetMs = 1000;

/** What this process knows about its clock. */
export interface Clock extends Service {
  /** Whether it is no more than 1 s off; true as long as it could not be measured. */
  isRight(): boolean;
  /** What is wrong with it, in a few words; undefined while it is right. */
  problem(): string | undefined;
}

/**
 * Compares this process's clock with the database's, again and again. BullMQ takes the worker's clock to say which jobs
 * are due: one that is 30 s fast made 15,000 early fires a second, before they were delayed relative to it.
 *
 * @param options.clockOffsetMs how far this process's clock is ahead of the database's, ms; undefined when that could
 *   not be measured. May reject: then nothing changes
 * @param options.everyMs how often it is measured, ms. Default 5,000
 */
export function watchClock(options: {
  clockOffsetMs: () => Promise<number | undefined>;
  log: Log;
  metrics: Metrics;
  everyMs?: number;
}): Clock {
  const { clockOffsetMs, log, metrics, everyMs = 5000 } = options;
  const gauge = new Gauge({
    name: 'lapse_clock_offset_ms',
    help: "How far this process's clock is ahead of the database's",
    registers: [metrics],
  });
  let offsetMs = 0;
  const isRight = (): boolean => Math.abs(offsetMs) <= maxOffsetMs;

  const measure = async (): Promise<void> => {
    // The database is watched elsewhere, and says nothing about the clock while it is away.
    const measured = await clockOffsetMs().catch(() => undefined);
    if (measured === undefined) return;
    const wasRight = isRight();
    offsetMs = Math.round(measured);
    gauge.set(offsetMs);
    if (wasRight && !isRight()) {
      log.error({ offsetMs }, "this machine's clock is wrong, no jobs are fetched");
    } else if (!wasRight && isRight()) {
      log.info({ offsetMs }, "this machine's clock is right again");
    }
  };
  const measuring = periodic({ name: 'clock', everyMs, log, task: measure });
  return {
    name: 'clock',
    async start() {
      // Before the first job is fetched.
      await measure();
      await measuring.start();
    },
    stop: () => measuring.stop(),
    isRight,
    problem: () =>
      isRight() ? undefined : `${Math.abs(offsetMs)} ms ${offsetMs > 0 ? 'ahead' : 'behind'}, not fetching`,
  };
}
