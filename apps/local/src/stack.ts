import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DevstackError, spawnApp, startServers, type AppOptions, type RunningApp } from '@lapse/devstack';
import { migrationsDir } from '@lapse/orders';
import { createLog, migrate, OperatorError } from '@lapse/runtime';
import { printLogLine } from './print.ts';

const root = fileURLToPath(new URL('../../..', import.meta.url));

/** How to run the whole system on this machine. */
export interface StackOptions {
  /** Folder of the servers' data. Default: one that is removed at the end. */
  readonly dataDir?: string;
  /** Servers to use instead of starting some. */
  readonly databaseUrl?: string | undefined;
  readonly redisUrl?: string | undefined;
  /** 0 takes free ones. */
  readonly apiPort: number;
  readonly opsPort: number;
  readonly workerPort: number;
  readonly workerCount: number;
  readonly secrets: Secrets;
  /** Hears, in a sentence, what goes on. */
  readonly say: (sentence: string) => void;
}

/** What the apps need and nobody else should know. */
export interface Secrets {
  readonly apiKey: string;
  readonly opsUser: string;
  readonly opsPassword: string;
  readonly sessionSecret: string;
}

/** The whole system, running. None of its processes outlives this one. */
export interface Stack {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly api: RunningApp;
  readonly ops: RunningApp;
  readonly workers: readonly RunningApp[];
  /** Drains the apps, then stops the servers. The data stays. */
  stop(): Promise<void>;
}

/** How soon an app that ended by itself is started again, ms. */
const restartAfterMs = 1000;

/**
 * Starts PostgreSQL and Redis (or uses those given), migrates, and starts the apps. An app that ends by itself is
 * started again.
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  const { dataDir, databaseUrl, redisUrl, say, secrets } = options;
  const servers = await startServers({
    onNotice: say,
    ...(dataDir === undefined ? {} : { dataDir }),
    ...(databaseUrl === undefined ? {} : { databaseUrl }),
    ...(redisUrl === undefined ? {} : { redisUrl }),
  }).catch((error: unknown) => {
    // No Redis to be had, a folder in use: written for whoever reads it.
    throw error instanceof DevstackError ? new OperatorError(error.message, { cause: error }) : error;
  });
  const supervisor = new Supervisor(say);
  try {
    await migrate({ url: servers.databaseUrl, dir: migrationsDir, log: createLog('migrate', 'warn') });
    const env = {
      DATABASE_URL: servers.databaseUrl,
      REDIS_URL: servers.redisUrl,
      LAPSE_HOST: '127.0.0.1',
      LAPSE_API_PORT: String(options.apiPort),
      LAPSE_OPS_PORT: String(options.opsPort),
      LAPSE_WORKER_PORT: String(options.workerPort),
      LAPSE_API_KEY: secrets.apiKey,
      LAPSE_OPS_USER: secrets.opsUser,
      LAPSE_OPS_PASSWORD: secrets.opsPassword,
      LAPSE_SESSION_SECRET: secrets.sessionSecret,
    };
    const run = (app: AppOptions['app'], name: string): Promise<RunningApp> =>
      supervisor.run({ app, name, root, env, onLine: (line) => printLogLine(name, line) });
    const workerNames = Array.from({ length: options.workerCount }, (_, n) => `worker-${n + 1}`);
    const starting = [
      run('api', 'api'),
      run('ops', 'ops'),
      ...workerNames.map((name) => run('worker', name)),
    ];
    // One that fails must not leave the others behind.
    await Promise.allSettled(starting);
    const [api, ops, ...workers] = await Promise.all(starting);
    if (api === undefined || ops === undefined) throw new Error('the api and ops were not started');
    return {
      databaseUrl: servers.databaseUrl,
      redisUrl: servers.redisUrl,
      api,
      ops,
      workers,
      async stop() {
        await supervisor.stop();
        await servers.stop();
      },
    };
  } catch (error) {
    await supervisor.stop();
    await servers.stop();
    throw error;
  }
}

/** Keeps apps running until it is told to stop. */
class Supervisor {
  readonly #say: (sentence: string) => void;
  readonly #running = new Set<RunningApp>();
  #stopping = false;

  constructor(say: (sentence: string) => void) {
    this.#say = say;
  }

  async run(options: AppOptions): Promise<RunningApp> {
    const app = await spawnApp(options);
    this.#running.add(app);
    void app.exited.then(({ code, signal }) => {
      this.#running.delete(app);
      if (this.#stopping) return;
      this.#say(`${app.name} ended (${signal ?? `code ${code}`}); starting it again.`);
      setTimeout(() => void this.#again(options), restartAfterMs);
    });
    return app;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all([...this.#running].map((app) => app.stop()));
  }

  async #again(options: AppOptions): Promise<void> {
    if (this.#stopping) return;
    try {
      await this.run(options);
    } catch (error) {
      this.#say(`${options.name ?? options.app} could not be started again: ${String(error)}`);
    }
  }
}

/** Draws secrets for a stack that nobody else uses. */
export function drawSecrets(): Secrets {
  return {
    apiKey: `lapse_${randomBytes(18).toString('base64url')}`,
    opsUser: 'ops',
    opsPassword: randomBytes(9).toString('base64url'),
    sessionSecret: randomBytes(32).toString('base64url'),
  };
}

/** The secrets of a data folder: drawn once, then kept in a file that only its owner reads. */
export async function keptSecrets(dataDir: string): Promise<Secrets> {
  const file = join(dataDir, 'secrets.json');
  await mkdir(dataDir, { recursive: true });
  const drawn = drawSecrets();
  // Fails where the file exists: then what stands in it counts.
  await writeFile(file, `${JSON.stringify(drawn, null, 2)}\n`, { mode: 0o600, flag: 'wx' }).catch(
    () => undefined,
  );
  const kept: unknown = JSON.parse(await readFile(file, 'utf8'));
  if (!isSecrets(kept))
    throw new OperatorError(`${file} is not what was written there. Remove it to draw new secrets.`);
  return kept;
}

function isSecrets(value: unknown): value is Secrets {
  return (
    typeof value === 'object' &&
    value !== null &&
    Object.keys(drawSecrets()).every((name) => typeof Reflect.get(value, name) === 'string')
  );
}
