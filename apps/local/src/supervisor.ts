import { setTimeout as delay } from 'node:timers/promises';
import { DevstackError, spawnApp, type AppOptions, type RunningApp } from '@lapse/devstack';
import { OperatorError } from '@lapse/runtime';

/** How soon an app that ended by itself is started again, ms. */
const restartAfterMs = 1000;

/** Keeps apps running until it is told to stop: one that ends by itself is started again. */
export class Supervisor {
  readonly #say: (sentence: string) => void;
  readonly #stopping = Promise.withResolvers<'stop'>();
  /** One for each app, until it has ended for good. */
  readonly #lives: Promise<void>[] = [];

  constructor(say: (sentence: string) => void) {
    this.#say = say;
  }

  /** @throws OperatorError where the app does not become ready */
  async run(options: AppOptions): Promise<RunningApp> {
    const app = await start(options);
    this.#lives.push(this.#keep(app, options));
    return app;
  }

  async stop(): Promise<void> {
    this.#stopping.resolve('stop');
    await Promise.all(this.#lives);
  }

  /** Told to stop while the app is being started again, it waits for that: nobody else could end what it becomes. */
  async #keep(first: RunningApp, options: AppOptions): Promise<void> {
    let app = first;
    for (;;) {
      const ended = await Promise.race([this.#stopping.promise, app.exited]);
      if (ended === 'stop') break;
      this.#say(`${app.name} ended (${ended.signal ?? `code ${ended.code}`}); starting it again.`);
      const pause = delay(restartAfterMs, 'start', { ref: false });
      if ((await Promise.race([this.#stopping.promise, pause])) === 'stop') return;
      try {
        app = await start(options);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#say(`${reason} It is not started again.`);
        return;
      }
    }
    await app.stop();
  }
}

async function start(options: AppOptions): Promise<RunningApp> {
  try {
    return await spawnApp(options);
  } catch (error) {
    if (!(error instanceof DevstackError)) throw error;
    const what = error.code === 'not_ready' ? 'was not ready in time' : 'ended at its start';
    // The message carries its last lines, but they are printed already.
    throw new OperatorError(`${options.name ?? options.app} ${what}; what it said stands above.`, {
      cause: error,
    });
  }
}
