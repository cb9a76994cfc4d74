import { setMaxListeners } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';

/** Work under way, which can be waited for and ended. */
export interface Tasks {
  /** Aborts when all of it is ended. */
  readonly signal: AbortSignal;
  /** Begins some work. When it is ended its signal aborts, and what it then throws is no matter. */
  readonly run: (work: (signal: AbortSignal) => Promise<void>) => void;
  /** Does something after a while, ms; never where that is Infinity. */
  readonly later: (ms: number, work: () => void) => void;
  /** Resolves when nothing is under way. */
  readonly idle: () => Promise<void>;
  /** Ends all of it. */
  readonly stop: () => Promise<void>;
}

/** Nothing is under way yet. */
export function createTasks(): Tasks {
  const underWay = new Set<Promise<void>>();
  const ending = new AbortController();
  const { signal } = ending;
  setMaxListeners(0, signal);

  const run: Tasks['run'] = (work) => {
    const task = work(signal)
      .catch((error: unknown) => {
        if (!signal.aborted) throw error;
      })
      .finally(() => underWay.delete(task));
    underWay.add(task);
  };
  const idle = async (): Promise<void> => {
    while (underWay.size > 0) await Promise.all(underWay);
  };

  return {
    signal,
    run,
    later(ms, work) {
      if (!Number.isFinite(ms)) return;
      run(async () => {
        await delay(ms, undefined, { signal });
        work();
      });
    },
    idle,
    async stop() {
      ending.abort();
      await idle();
    },
  };
}
