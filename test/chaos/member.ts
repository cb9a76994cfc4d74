import { setTimeout as delay } from 'node:timers/promises';

import { DevstackError, spawnApp, type AppOptions, type Proxy, type RunningApp } from '@lapse/devstack';

/** A process of Lapse with a proxy of its own before each server and payment provider. */
export class Member {
  readonly name: string;
  readonly postgres: Proxy;
  readonly redis: Proxy;
  /** Before everything it talks to, and before an api where webhooks come in. */
  readonly proxies: readonly Proxy[];
  readonly #options: AppOptions;
  readonly #onCrash: (how: string) => void;
  #app: RunningApp | undefined;
  #starting: Promise<void> | undefined;
  readonly #port: number;

  constructor(options: {
    app: AppOptions;
    name: string;
    /** Where an api listens, each time it runs. */
    port: number;
    postgres: Proxy;
    redis: Proxy;
    others: readonly Proxy[];
    onCrash: (how: string) => void;
  }) {
    this.#options = options.app;
    this.name = options.name;
    this.#port = options.port;
    this.postgres = options.postgres;
    this.redis = options.redis;
    this.proxies = [options.postgres, options.redis, ...options.others];
    this.#onCrash = options.onCrash;
  }

  /** Where an api listens. */
  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  get pid(): number | undefined {
    return this.#app?.pid;
  }

  /**
   * Starts it; again for up to 30 s where it ends at once, as an orchestrator would: it refuses to start without
   * PostgreSQL. Nothing happens where it runs.
   *
   * @param clockOffsetMs how wrong its clock is. Default 0
   */
  start(clockOffsetMs = 0): Promise<void> {
    this.#starting ??= this.#startOnce(clockOffsetMs).finally(() => (this.#starting = undefined));
    return this.#starting;
  }

  async #startOnce(clockOffsetMs: number): Promise<void> {
    const giveUpAt = performance.now() + 30_000;
    while (this.#app === undefined) {
      try {
        this.#app = await this.#spawn(clockOffsetMs);
      } catch (error) {
        if (!(error instanceof DevstackError) || performance.now() > giveUpAt) throw error;
        await delay(500);
      }
    }
  }

  async #spawn(clockOffsetMs: number): Promise<RunningApp> {
    const skew = new URL(`skewed-clock.ts?offsetMs=${clockOffsetMs}`, import.meta.url).href;
    const app = await spawnApp({
      ...this.#options,
      env: { ...this.#options.env, LAPSE_API_PORT: String(this.#port), LAPSE_WORKER_PORT: '0' },
      nodeArguments: clockOffsetMs === 0 ? [] : ['--import', skew],
    });
    void app.exited.then(({ code, signal }) => {
      if (this.#app !== app) return;
      this.#app = undefined;
      const lastLine = app.logs().at(-1) ?? '';
      this.#onCrash(`${this.name} ended by itself with ${signal ?? `code ${code}`}: ${lastLine}`);
    });
    return app;
  }

  /** SIGSTOP or SIGCONT. */
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#app?.kill(signal);
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    const app = this.#app;
    this.#app = undefined;
    app?.kill('SIGKILL');
    await app?.exited;
  }

  /** SIGTERM; it has 30 s. One that has to be killed, or ends with another code than 0, counts as crashed. */
  async drain(): Promise<void> {
    const app = this.#app;
    this.#app = undefined;
    const ended = await app?.stop({ timeoutMs: 30_000 });
    if (ended !== undefined && ended.code !== 0) {
      this.#onCrash(`${this.name}, told to stop, ended with ${ended.signal ?? `code ${ended.code}`}`);
    }
  }
}
