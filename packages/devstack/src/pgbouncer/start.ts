import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type AptProgram, cachedProgram, unpackProgram } from '../apt.ts';
import {
  type Environment,
  findCommand,
  machineEnvironment,
  minimalEnvironment,
  type OnNotice,
} from '../environment.ts';
import { DevstackError } from '../errors.ts';
import { onPort } from '../ports.ts';
import { answersQueries } from '../postgres/answers.ts';
import type { RunningServer } from '../postgres/start.ts';
import { waitFor } from '../wait-for.ts';
import { spawnGuarded } from '../watchdog/spawn-guarded.ts';

const run = promisify(execFile);

const aptPgbouncer: AptProgram = {
  name: 'PgBouncer',
  package: 'pgbouncer',
  path: join('usr', 'sbin', 'pgbouncer'),
  libraries: ['libc-ares2', 'libevent-2.1-7', 'libpam0g', 'libssl3', 'libsystemd0'],
};

/** Before which PostgreSQL PgBouncer shall stand, and how. */
export interface PgbouncerOptions {
  /** Any database of the server: PgBouncer leads to all of them, as this user. */
  readonly databaseUrl: string;
  /** Most sessions with the server, for each database. */
  readonly poolSize: number;
  /** Settings on top of ours, as in pgbouncer.ini. */
  readonly settings?: Readonly<Record<string, string | number>>;
  /** Default: a free one. */
  readonly port?: number;
  /** Hears of the slow way to get one, which takes seconds. */
  readonly onNotice?: OnNotice;
  /** The machine's variables; default: this process's. */
  readonly env?: Environment;
}

/**
 * Starts PgBouncer on 127.0.0.1 in transaction mode: from PATH, or the private copy that apt fetches once. Prepared
 * statements are lost in it, as in every version before 1.21; where it could keep them it is told not to. Who comes needs no
 * password.
 *
 * @throws DevstackError `pgbouncer_not_found`, `port_taken`, `start_failed`, `not_ready`
 */
export async function startPgbouncer(options: PgbouncerOptions): Promise<RunningServer> {
  const env = machineEnvironment(options.env);
  const program = await findPgbouncer(env, options.onNotice ?? (() => {}));
  const environment = {
    ...minimalEnvironment(env),
    ...(program.libraryPath === undefined ? {} : { LD_LIBRARY_PATH: program.libraryPath }),
  };
  const { stdout: version } = await run(program.path, ['--version'], { env: environment });
  const folder = await mkdtemp(join(tmpdir(), 'lapse-pgbouncer-'));
  const file = join(folder, 'pgbouncer.ini');
  const started = onPort(options.port, 'PgBouncer', async (port) => {
    await writeFile(file, iniFile(options, port, version), { mode: 0o600 });
    const server = await spawnGuarded(program.path, [file], {
      name: 'PgBouncer',
      // At once, in every version: from 1.23 on SIGTERM waits until all clients have gone.
      stopSignal: 'SIGQUIT',
      env: environment,
    });
    const url = new URL(options.databaseUrl);
    url.hostname = '127.0.0.1';
    url.port = String(port);
    try {
      await waitFor(
        async () => {
          if (server.isRunning()) return answersQueries(url.href);
          const words = server.logs().slice(-15).join('\n');
          throw new DevstackError('start_failed', `PgBouncer ended at its start:\n${words}`);
        },
        { what: `PgBouncer on port ${port}`, timeoutMs: 10_000 },
      );
    } catch (error) {
      await server.stop();
      throw error;
    }
    return { server, port, url: url.href };
  });
  const { server, port, url } = await started.catch(async (error: unknown) => {
    await rm(folder, { recursive: true, force: true });
    throw error;
  });
  return {
    url,
    port,
    pid: server.pid,
    dataDir: folder,
    exited: server.exited,
    logs: () => server.logs(),
    kill: (signal) => server.kill(signal),
    async stop() {
      await server.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function findPgbouncer(
  env: Environment,
  onNotice: OnNotice,
): Promise<{ readonly path: string; readonly libraryPath?: string }> {
  // Debian has it in /usr/sbin, which is on the PATH of root only.
  const path = await findCommand('pgbouncer', { ...env, PATH: `${env['PATH'] ?? ''}:/usr/sbin` });
  if (path !== undefined) return { path };
  try {
    return (await cachedProgram(aptPgbouncer, env)) ?? (await unpackProgram(aptPgbouncer, env, onNotice));
  } catch (error) {
    throw new DevstackError(
      'pgbouncer_not_found',
      'There is no PgBouncer on this machine, and apt could not fetch one. Install it: "apt install pgbouncer", ' +
        '"dnf install pgbouncer", "brew install pgbouncer"',
      { cause: error },
    );
  }
}

function iniFile(
  { databaseUrl, poolSize, settings }: PgbouncerOptions,
  port: number,
  version: string,
): string {
  const { hostname, port: serverPort, username, password } = new URL(databaseUrl);
  const target = {
    host: hostname,
    port: serverPort === '' ? '5432' : serverPort,
    user: decodeURIComponent(username),
    ...(password === '' ? {} : { password: decodeURIComponent(password) }),
  };
  const words = Object.entries(target).map(([name, value]) => `${name}='${value.replaceAll("'", "''")}'`);
  const all = {
    listen_addr: '127.0.0.1',
    listen_port: port,
    // TCP only: a socket's path may hold 107 bytes, and our folders may be deeper.
    unix_socket_dir: '',
    auth_type: 'any',
    pool_mode: 'transaction',
    default_pool_size: poolSize,
    max_client_conn: 1000,
    log_connections: 0,
    log_disconnections: 0,
    // Under root it refuses to run; told so, it becomes nobody when it has read its files.
    ...(process.getuid?.() === 0 ? { user: 'nobody' } : {}),
    ...(keepsStatements(version) ? { max_prepared_statements: 0 } : {}),
    ...settings,
  };
  const lines = Object.entries(all).map(([name, value]) => `${name} = ${value}`);
  return `[databases]\n* = ${words.join(' ')}\n\n[pgbouncer]\n${lines.join('\n')}\n`;
}

/** From 1.21 on there is a setting for it. */
function keepsStatements(version: string): boolean {
  const [major = 0, minor = 0] = /(\d+)\.(\d+)/.exec(version)?.slice(1).map(Number) ?? [];
  return major > 1 || minor >= 21;
}
