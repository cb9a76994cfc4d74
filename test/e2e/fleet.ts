import { join } from 'node:path';

import { createClient, type LapseClient } from '@lapse/client';
import {
  compileCache,
  createTestDatabase,
  spawnApp,
  spawnGuarded,
  type AppOptions,
  type RunningApp,
} from '@lapse/devstack';
import { createLog, openDatabase, type Database } from '@lapse/runtime';
import { expect, inject } from 'vitest';

import { brokenInvariants } from '../invariants.ts';
import { root } from '../root.ts';

/** The API key of test fleets. */
export const apiKey = 'test-key-0123456789abcdef';

/** Processes of Lapse on a database of their own. */
export interface Fleet {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  readonly database: Database;
  readonly apis: readonly RunningApp[];
  readonly workers: readonly RunningApp[];
  /** Talks to the first api. */
  readonly client: LapseClient;
  /** Starts one more process with the fleet's settings, and others on top; with options for Node where given. */
  add(
    app: AppOptions['app'],
    env?: Readonly<Record<string, string>>,
    nodeArguments?: readonly string[],
  ): Promise<RunningApp>;
  /** Fails unless every invariant holds. */
  expectInvariants(): Promise<void>;
  stop(): Promise<void>;
}

/** How large a fleet is, and where its servers are. */
export interface FleetOptions {
  readonly apiCount?: number;
  readonly workerCount?: number;
  /** Default: this test file's database of the shared Redis. */
  readonly redisUrl?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/**
 * A database of the shared Redis for this test file: vitest counts the workers that it starts, one for each file. An
 * external Redis may have only 16; with more files than databases two share one, never at the same time.
 */
function ownRedisUrl(): string {
  const url = new URL(inject('redisUrl'));
  url.pathname = `/${Number(process.env['VITEST_WORKER_ID'] ?? 1) % inject('redisDatabases')}`;
  return url.href;
}

/** Starts api and worker processes on a fresh database. */
export async function startFleet(options: FleetOptions = {}): Promise<Fleet> {
  const { apiCount = 1, workerCount = 2, redisUrl = ownRedisUrl() } = options;
  const own = await createTestDatabase({
    adminUrl: inject('databaseUrl'),
    template: inject('templateDatabase'),
  });
  const database = openDatabase({ url: own.url, app: 'test', log: createLog('test', 'error'), max: 4 });
  const running: RunningApp[] = [];
  const env = {
    DATABASE_URL: own.url,
    REDIS_URL: redisUrl,
    LAPSE_HOST: '127.0.0.1',
    LAPSE_API_PORT: '0',
    LAPSE_WORKER_PORT: '0',
    LAPSE_OPS_PORT: '0',
    LAPSE_API_KEY: apiKey,
    LAPSE_OPS_PASSWORD: 'test-password',
    LAPSE_SESSION_SECRET: 'test-secret-0123456789abcdef0123456789',
    ...options.env,
  };
  const add: Fleet['add'] = async (app, more = {}, nodeArguments = []) => {
    const name = `${app}-${running.length + 1}`;
    const started = await spawnApp({ app, root, env: { ...env, ...more }, name, nodeArguments });
    running.push(started);
    return started;
  };
  const stop = async (): Promise<void> => {
    await Promise.all(running.map((app) => app.stop()));
    await database.end();
    await own.drop();
  };
  const times = (count: number, app: AppOptions['app']): Promise<RunningApp[]> =>
    Promise.all(Array.from({ length: count }, () => add(app)));
  try {
    const [apis, workers] = await Promise.all([times(apiCount, 'api'), times(workerCount, 'worker')]);
    const baseUrl = apis[0]?.url ?? 'http://127.0.0.1:9';
    return {
      databaseUrl: own.url,
      redisUrl,
      database,
      apis,
      workers,
      client: createClient({ baseUrl, apiKey }),
      add,
      async expectInvariants() {
        expect(await brokenInvariants(database)).toEqual([]);
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Waits until no order is pending. */
export async function untilNonePending(database: Database, timeoutMs: number): Promise<void> {
  const giveUpAt = Date.now() + timeoutMs;
  for (;;) {
    const { rows } = await database.query<{ count: number }>(
      "select count(*) from orders where status = 'pending_payment'",
    );
    if (rows[0]?.count === 0) return;
    if (Date.now() > giveUpAt) throw new Error(`${rows[0]?.count ?? '?'} orders are still pending`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A figure of an app's metrics as `/metrics` writes its name, labels included; 0 where it is not there yet. */
export async function metric(app: RunningApp, name: string): Promise<number> {
  const text = await (await fetch(`${app.url}/metrics`)).text();
  const line = text.split('\n').find((one) => one.startsWith(`${name} `));
  return line === undefined ? 0 : Number(line.slice(name.length));
}

/** What an api answered. */
export interface Answered {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

/** Calls the first api of a fleet, also with what no client would send. */
export async function call(
  { apis }: Pick<Fleet, 'apis'>,
  method: 'GET' | 'POST',
  path: string,
  body?: unknown,
): Promise<Answered> {
  const response = await fetch(`${apis[0]?.url ?? ''}${path}`, {
    method,
    headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: response.status, body: (await response.json()) as Answered['body'] };
}

/** Runs the command line on the database of a fleet. */
export const lapse = (
  { databaseUrl }: Pick<Fleet, 'databaseUrl'>,
  ...args: readonly string[]
): Promise<Ended> =>
  runScript('apps/cli/src/main.ts', args, { DATABASE_URL: databaseUrl, LAPSE_LOG_LEVEL: 'warn' });

/** How a script ended. */
export interface Ended {
  readonly code: number | null;
  /** Its output and error output. */
  readonly output: string;
}

/** Longest a script may run, ms; then it is killed, and its code is null. */
const scriptTimeoutMs = 20_000;

/** Runs a script of the workspace to its end, with no settings but those in `env`. */
export async function runScript(
  script: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Ended> {
  const child = await spawnGuarded(process.execPath, [join(root, script), ...args], {
    name: script,
    cwd: root,
    env: { ...compileCache(root), ...env },
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), scriptTimeoutMs);
  const { code } = await child.exited;
  clearTimeout(timer);
  return { code, output: child.logs().join('\n') };
}

/** How many events of a type there are. */
export async function countEvents({ database }: Fleet, type: string): Promise<number> {
  const { rows } = await database.query<{ count: number }>(
    'select count(*) as count from events where type = $1',
    [type],
  );
  return rows[0]?.count ?? 0;
}

/** How many orders are cancelled so far. */
export async function countCancelled(database: Database): Promise<number> {
  const { rows } = await database.query<{ count: number }>(
    "select count(*) from orders where status = 'cancelled'",
  );
  return rows[0]?.count ?? 0;
}
