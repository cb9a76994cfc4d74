import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from './log.ts';

/**
 * Something that runs until it is told to stop: an HTTP server, a worker, a loop.
 * `start` resolves when it works; `stop` resolves when what was begun is finished.
 */
export interface Service {
  readonly name: string;
  start(): Promise<void>;
  stop(): Promise<void>;
}

/** How long a process may take to finish what it began, ms, before it ends all the same. */
const stopTimeoutMs = 30_000;

/**
 * Runs an app: starts its services in order and, on SIGTERM or SIGINT, or where one cannot start, stops them in reverse
 * and ends the process. A second signal ends it at once. A service that cannot start, fails to stop, or does not stop in
 * 30 s, makes the exit code 1.
 *
 * The process is not left to end by itself: a connection whose peer is silent would keep it alive. Nothing of the log is
 * lost, it is written synchronously.
 *
 * @param services in the order they depend on each other
 * @returns whether all of them run: false where a signal came before they did
 */
export async function runServices(services: readonly Service[], log: Log): Promise<boolean> {
  const started: Service[] = [];
  let starting: Promise<void> | undefined;
  let stopping: Promise<void> | undefined;

  const stopAll = async (): Promise<void> => {
    const tooLong = setTimeout(() => {
      log.error({ stopTimeoutMs }, 'services did not stop in time');
      process.exit(1);
    }, stopTimeoutMs);
    // What is stopped before it has started would start all the same.
    await starting?.catch(() => undefined);
    for (const service of started.toReversed()) {
      try {
        await service.stop();
      } catch (error) {
        process.exitCode = 1;
        log.error({ err: error, service: service.name }, 'service failed to stop');
      }
    }
    clearTimeout(tooLong);
  };
  const stop = (): Promise<void> => {
    stopping ??= stopAll();
    return stopping;
  };
  const onSignal = (signal: NodeJS.Signals): void => {
    if (stopping !== undefined) {
      log.warn({ signal }, 'second signal, ending at once');
      process.exit(1);
    }
    log.info({ signal }, 'stopping');
    void stop().then(() => {
      log.info('stopped');
      process.exit();
    });
  };

  process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
  for (const service of services) {
    if (stopping !== undefined) return false;
    try {
      started.push(service);
      starting = service.start();
      await starting;
    } catch (error) {
      log.fatal({ err: error, service: service.name }, 'service could not start');
      process.exitCode = 1;
      await stop();
      process.exit();
    }
  }
  return true;
}

/**
 * Runs a task again and again, `everyMs` after the last run ended. A run that throws is counted by `onError`, and the
 * next one comes as usual; of failures in a row the first is logged, and the recovery. `stop` waits for the run that is
 * under way, whose signal it aborts.
 *
 * @param task one run; long ones should heed the signal
 */
export function periodic(options: {
  name: string;
  everyMs: number;
  log: Log;
  task: (signal: AbortSignal) => Promise<void>;
  onError?: () => void;
}): Service {
  const { name, everyMs, log, task, onError } = options;
  const stopped = new AbortController();
  let loop: Promise<void> | undefined;

  const run = async (): Promise<void> => {
    let failedRunCount = 0;
    while (!stopped.signal.aborted) {
      try {
        await task(stopped.signal);
        if (failedRunCount > 0) log.info({ failedRunCount, service: name }, 'periodic task works again');
        failedRunCount = 0;
      } catch (error) {
        onError?.();
        if (failedRunCount === 0) log.error({ err: error, service: name }, 'periodic task failed');
        failedRunCount += 1;
      }
      await delay(everyMs, undefined, { signal: stopped.signal }).catch(() => undefined);
    }
  };
  return {
    name,
    start() {
      loop = run();
      return Promise.resolve();
    },
    async stop() {
      stopped.abort();
      await loop;
    },
  };
}
