import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { type Environment, machineEnvironment, minimalEnvironment, type OnNotice } from '../environment.ts';
import { codeOf, DevstackError } from '../errors.ts';
import { onPort } from '../ports.ts';
import { waitFor } from '../wait-for.ts';
import { type GuardedProcess, type ProcessExit, spawnGuarded } from '../watchdog/spawn-guarded.ts';
import { embeddedPostgres, type PostgresBinaries, reachableBinaries } from './binaries.ts';
import { type DataFolder, freeCluster, initCluster, placeDataFolder } from './data-folder.ts';

/** What PostgreSQL is started with. `settings` of a call come on top. */
const postgresSettings: Readonly<Record<string, string | number>> = {
  listen_addresses: '127.0.0.1',
  // TCP only: a socket's path may hold 107 bytes, and our folders may be deeper.
  unix_socket_directories: '',
  max_connections: 200,
  shared_buffers: '256MB',
  max_wal_size: '4GB',
  timezone: 'UTC',
  log_timezone: 'UTC',
};

/** Where and how PostgreSQL shall run. */
export interface PostgresOptions {
  /** Its data folder, made at the first start. */
  readonly dataDir: string;
  /** Default: a free one. */
  readonly port?: number;
  /** Server settings on top of `postgresSettings`, as in postgresql.conf. */
  readonly settings?: Readonly<Record<string, string | number>>;
  /** A file that its log is appended to; default: none. */
  readonly logFile?: string;
  /** How long it may take to be ready, crash recovery included; default 60,000. */
  readonly timeoutMs?: number;
  /** Hears where data or programs went when they could not be where they were wished. */
  readonly onNotice?: OnNotice;
  /** The machine's variables; default: this process's. */
  readonly env?: Environment;
}

/** A server that is running and answers. It never outlives this process. */
export interface RunningServer {
  /** With user and database where it has them. */
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** Where its data really is. */
  readonly dataDir: string;
  /** Resolves when it has ended, for whatever reason. */
  readonly exited: Promise<ProcessExit>;
  /** Its last 500 log lines. */
  logs(): string[];
  /** Ends it in good order, within 10 s or by SIGKILL. The data stays. */
  stop(): Promise<void>;
  /** Sends it a signal: SIGKILL for a crash, SIGSTOP and SIGCONT for a pause. */
  kill(signal: NodeJS.Signals): void;
}

/**
 * Starts PostgreSQL from npm's binaries on 127.0.0.1, with superuser `lapse` and database `lapse`. The first start in a
 * folder takes about a second, later ones about 100 ms. Ready means that it answered a query.
 *
 * @throws DevstackError `port_taken`, `folder_in_use`, `folder_unusable`, `unsupported_platform`, `start_failed`,
 * `not_ready`
 */
export async function startPostgres(options: PostgresOptions): Promise<RunningServer> {
  const env = machineEnvironment(options.env);
  const onNotice = options.onNotice ?? (() => {});
  const shipped = await embeddedPostgres();
  const folder = await placeDataFolder(options.dataDir, env, onNotice);
  const binaries =
    folder.runAs === undefined ? shipped : await reachableBinaries(shipped, folder.runAs, env, onNotice);
  await initCluster(folder, binaries, env);
  const hasCrashed = await freeCluster(folder);
  return onPort(options.port, 'PostgreSQL', async (port) => {
    // Backends of a killed server may hold its shared memory for a moment; until then a new one refuses to start.
    for (let attemptsLeft = hasCrashed ? 10 : 0; ; attemptsLeft -= 1) {
      try {
        return await startOn(port, folder, binaries, env, options);
      } catch (error) {
        if (attemptsLeft <= 0 || codeOf(error) !== 'start_failed') throw error;
        await sleep(300);
      }
    }
  });
}

async function startOn(
  port: number,
  folder: DataFolder,
  { postgres }: PostgresBinaries,
  env: Environment,
  { settings, logFile, timeoutMs = 60_000 }: PostgresOptions,
): Promise<RunningServer> {
  const all = Object.entries({ ...postgresSettings, ...settings });
  const server = await spawnGuarded(
    postgres,
    ['-D', folder.path, '-p', String(port), ...all.flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    {
      name: 'PostgreSQL',
      // Fast shutdown: sessions are ended, the data is written.
      stopSignal: 'SIGINT',
      env: { ...minimalEnvironment(env), LC_ALL: 'C', TZ: 'UTC' },
      ...folder.runAs,
      ...(logFile === undefined ? {} : { logFile }),
    },
  );
  const url = `postgres://lapse@127.0.0.1:${port}/lapse`;
  try {
    await waitFor(() => answers(server, port, folder.path), {
      what: `PostgreSQL in ${folder.path}`,
      timeoutMs,
    });
    await ensureDatabase(port);
  } catch (error) {
    await server.stop();
    throw error;
  }
  return {
    url,
    port,
    pid: server.pid,
    dataDir: folder.path,
    exited: server.exited,
    logs: () => server.logs(),
    kill: (signal) => server.kill(signal),
    async stop() {
      await server.stop();
    },
  };
}

/** Whether our server answers: somebody else's on the same port has another data folder. */
async function answers(server: GuardedProcess, port: number, dataDir: string): Promise<boolean> {
  if (!server.isRunning()) {
    const { code, signal } = await server.exited;
    const words = server.logs().slice(-15).join('\n');
    throw new DevstackError(
      'start_failed',
      `PostgreSQL ended with ${signal ?? code} at its start:\n${words}`,
    );
  }
  try {
    return await withClient(port, async (client) => {
      const { rows } = await client.query<{ folder: string }>(
        `select current_setting('data_directory') as folder`,
      );
      return rows[0]?.folder === dataDir;
    });
  } catch {
    // Not listening yet, or starting up.
    return false;
  }
}

async function ensureDatabase(port: number): Promise<void> {
  await withClient(port, async (client) => {
    const { rowCount } = await client.query(`select 1 from pg_database where datname = 'lapse'`);
    if (rowCount === 0) await client.query('create database lapse');
  });
}

async function withClient<T>(port: number, use: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({
    host: '127.0.0.1',
    port,
    user: 'lapse',
    database: 'postgres',
    connectionTimeoutMillis: 2_000,
  });
  client.on('error', () => {
    // A connection that breaks rejects its query as well.
  });
  try {
    await client.connect();
    return await use(client);
  } finally {
    await client.end().catch(() => {});
  }
}
