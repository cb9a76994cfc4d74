import { randomBytes } from 'node:crypto';
import { isIPv6 } from 'node:net';
import { fileURLToPath } from 'node:url';
import {
  DevstackError,
  startSandbox,
  startServers,
  type AppOptions,
  type RunningApp,
  type Sandbox,
} from '@lapse/devstack';
import { migrationsDir } from '@lapse/orders';
import { createLog, migrate, OperatorError } from '@lapse/runtime';
import { lesserLevel, printLogLine, type Level } from './print.ts';
import type { Secrets } from './secrets.ts';
import { Supervisor } from './supervisor.ts';

const root = fileURLToPath(new URL('../../..', import.meta.url));

/** How to run the whole system on this machine. */
export interface StackOptions {
  /** Folder of the servers' data. Default: one that is removed at the end. */
  readonly dataDir?: string;
  /** Servers to use instead of starting some. */
  readonly databaseUrl?: string;
  readonly redisUrl?: string;
  /** 0 takes free ones. */
  readonly apiPort: number;
  readonly opsPort: number;
  readonly workerPort: number;
  readonly workerCount: number;
  readonly secrets: Secrets;
  /** Address that the apps listen on. Default 127.0.0.1. */
  readonly host?: string;
  /** Least level of the apps' logs that is printed. Default `warn`. */
  readonly logLevel?: Level;
  /** More settings of the apps, as variables. Where they name a sandbox provider, none is started. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Hears, in a sentence, what goes on. */
  readonly say: (sentence: string) => void;
}

/** The whole system, running. None of its processes outlives this one. */
export interface Stack {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly apiUrl: string;
  readonly opsUrl: string;
  /** A payment provider that takes no real money; undefined where the settings name another. */
  readonly sandbox: Sandbox | undefined;
  /** Drains the apps, then stops the servers. The data stays. */
  stop(): Promise<void>;
}

/**
 * Starts PostgreSQL and Redis (or uses those given), migrates, and starts a sandbox payment provider and the apps. An app
 * that ends by itself is started again.
 *
 * @throws OperatorError where a server or an app cannot be had; nothing is left running
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  const { dataDir, databaseUrl, redisUrl, host = '127.0.0.1', logLevel = 'warn', say, secrets } = options;
  const { settings = {} } = options;
  const servers = await startServers({
    onNotice: say,
    ...(dataDir === undefined ? {} : { dataDir }),
    ...(databaseUrl === undefined ? {} : { databaseUrl }),
    ...(redisUrl === undefined ? {} : { redisUrl }),
  }).catch((error: unknown) => {
    throw explainServers(error);
  });
  const supervisor = new Supervisor(say);
  let sandbox: Sandbox | undefined;
  /** The apps first: what they have in hand they may still tell the others. */
  const stop = async (): Promise<void> => {
    await supervisor.stop();
    await sandbox?.stop();
    await servers.stop();
  };
  try {
    await migrate({ url: servers.databaseUrl, dir: migrationsDir, log: createLog('migrate', 'warn') });
    const sandboxSecret = `whsec_${randomBytes(32).toString('base64')}`;
    if (settings['LAPSE_SANDBOX_PROVIDER_URL'] === undefined)
      // Orders of an earlier start may have pages there that are gone.
      sandbox = await startSandbox({ secret: sandboxSecret, isForgetful: true });
    const env = {
      ...(sandbox === undefined
        ? {}
        : { LAPSE_SANDBOX_PROVIDER_URL: sandbox.url, LAPSE_SANDBOX_PROVIDER_SECRET: sandboxSecret }),
      ...settings,
      DATABASE_URL: servers.databaseUrl,
      REDIS_URL: servers.redisUrl,
      LAPSE_HOST: host,
      LAPSE_API_PORT: String(options.apiPort),
      LAPSE_OPS_PORT: String(options.opsPort),
      LAPSE_WORKER_PORT: String(options.workerPort),
      LAPSE_API_KEY: secrets.apiKey,
      LAPSE_OPS_USER: secrets.opsUser,
      LAPSE_OPS_PASSWORD: secrets.opsPassword,
      LAPSE_SESSION_SECRET: secrets.sessionSecret,
      // What is printed is chosen here: that an app is ready, `spawnApp` learns from its log at `info`.
      LAPSE_LOG_LEVEL: lesserLevel(logLevel, 'info'),
    };
    const run = (app: AppOptions['app'], name: string): Promise<RunningApp> =>
      supervisor.run({ app, name, root, env, onLine: (line) => printLogLine(name, line, logLevel) });
    const workerNames = Array.from({ length: options.workerCount }, (_, n) => `worker-${n + 1}`);
    const starting = [
      run('api', 'api'),
      run('ops', 'ops'),
      ...workerNames.map((name) => run('worker', name)),
    ];
    // One that fails must not leave the others behind.
    await Promise.allSettled(starting);
    const [api, ops] = await Promise.all(starting);
    if (api === undefined || ops === undefined) throw new Error('the api and ops were not started');
    const apiUrl = urlOf(host, api.port);
    sandbox?.deliverTo(`${apiUrl}/hooks/sandbox`);
    return {
      databaseUrl: servers.databaseUrl,
      redisUrl: servers.redisUrl,
      apiUrl,
      opsUrl: urlOf(host, ops.port),
      sandbox,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Where an app that listens on `host` is found from this machine. */
function urlOf(host: string, port: number): string {
  if (host === '0.0.0.0' || host === '::') return `http://127.0.0.1:${port}`;
  return `http://${isIPv6(host) ? `[${host}]` : host}:${port}`;
}

/** What to say of servers that could not be had: no Redis on this machine, a folder in use. */
function explainServers(error: unknown): unknown {
  const failures: readonly unknown[] = error instanceof AggregateError ? error.errors : [error];
  const known = failures.filter((failure) => failure instanceof DevstackError);
  if (known.length < failures.length) return error;
  const told = known.map(({ message }) => message).join('\n');
  const isInUse = known.some(({ code }) => code === 'folder_in_use');
  const hint =
    'The data folder is in use, perhaps by another `start`. End that, or set LAPSE_DATA_DIR to another.\n';
  return new OperatorError(isInUse ? hint + told : told, { cause: error });
}
