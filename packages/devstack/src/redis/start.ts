import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { type Environment, machineEnvironment, minimalEnvironment, type OnNotice } from '../environment.ts';
import { DevstackError } from '../errors.ts';
import { isRunning } from '../folder-once.ts';
import { onPort } from '../ports.ts';
import type { RunningServer } from '../postgres/start.ts';
import { waitFor } from '../wait-for.ts';
import { type GuardedProcess, spawnGuarded } from '../watchdog/spawn-guarded.ts';
import { askRedis } from './ask.ts';
import { findRedisServer, type RedisServer } from './find-server.ts';

const run = promisify(execFile);

/** What Redis is started with. `settings` of a call come on top. */
export const redisSettings: Readonly<Record<string, string | number>> = {
  appendonly: 'yes',
  appendfsync: 'everysec',
  save: '',
  // A deadline's job must not be evicted.
  'maxmemory-policy': 'noeviction',
  // How often Redis looks at blocked clients: an idle worker is p50 5 ms late at 100, 46 ms at the default 10.
  hz: 100,
  // hash-max-listpack-value by its old name, which every version since 2.6 takes (Ubuntu 22.04 has 6.0). Keeps a job's
  // hash compact with longer values: 426 B per delayed job.
  'hash-max-ziplist-value': 512,
  databases: 256,
  daemonize: 'no',
};

/** Where and how Redis shall run. */
export interface RedisOptions {
  /** Its data folder, made at the first start. */
  readonly dataDir: string;
  /** Default: a free one. */
  readonly port?: number;
  /** Server settings on top of `redisSettings`, as in redis.conf. */
  readonly settings?: Readonly<Record<string, string | number>>;
  /** A file that its log is appended to; default: none. */
  readonly logFile?: string;
  /** The image for a Docker engine; default `redis:8-alpine`. */
  readonly image?: string;
  /** How long it may take to be ready, reading its data included; default 60,000. */
  readonly timeoutMs?: number;
  /** Hears of a server that must be fetched first, which takes seconds. */
  readonly onNotice?: OnNotice;
  /** The machine's variables; default: this process's. */
  readonly env?: Environment;
}

/**
 * Starts Redis on 127.0.0.1 with `redisSettings`, from wherever `findRedisServer` finds it. Ready means that it answered
 * PING, its data read.
 *
 * @throws RedisServerNotFound; DevstackError `port_taken`, `folder_in_use`, `start_failed`, `not_ready`
 */
export async function startRedis(options: RedisOptions): Promise<RunningServer> {
  const env = machineEnvironment(options.env);
  const onNotice = options.onNotice ?? (() => {});
  const found = await findRedisServer({ env, onNotice });
  if (found.kind === 'docker')
    onNotice('Redis runs in a container: the Docker engine fetches the image, once');
  const dataDir = resolve(options.dataDir);
  await mkdir(dataDir, { recursive: true });
  await freeFolder(dataDir);
  return onPort(options.port, 'Redis', (port) => startOn(port, dataDir, found, env, options));
}

/** `settings` as words of Redis's command line. */
export function redisArguments(settings: Readonly<Record<string, string | number>>): string[] {
  return Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
}

async function startOn(
  port: number,
  dataDir: string,
  found: RedisServer,
  env: Environment,
  { settings, logFile, image = 'redis:8-alpine', timeoutMs = 60_000 }: RedisOptions,
): Promise<RunningServer> {
  const container = `lapse-redis-${randomBytes(6).toString('hex')}`;
  const all = { ...redisSettings, ...settings };
  const command =
    found.kind === 'program'
      ? redisArguments({ bind: '127.0.0.1', port, dir: dataDir, pidfile: pidFile(dataDir), ...all })
      : dockerArguments(container, image, port, dataDir, all);
  const server = await spawnGuarded(found.path, command, {
    name: 'Redis',
    cwd: dataDir,
    env:
      found.kind === 'program'
        ? { ...minimalEnvironment(env), ...(found.libraryPath ? { LD_LIBRARY_PATH: found.libraryPath } : {}) }
        : onlySet(env),
    ...(logFile === undefined ? {} : { logFile }),
  });
  try {
    await waitFor(() => answers(server, port, found), { what: `Redis in ${dataDir}`, timeoutMs });
  } catch (error) {
    await server.stop();
    throw error;
  }
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    pid: server.pid,
    dataDir,
    exited: server.exited,
    logs: () => server.logs(),
    kill(signal) {
      if (found.kind === 'program') return server.kill(signal);
      // The pid is the docker command's: the engine is asked to pass the signal on.
      run(found.path, ['kill', '--signal', signal, container], { env: onlySet(env) }).catch(() =>
        server.kill(signal),
      );
    },
    async stop() {
      await server.stop();
    },
  };
}

function dockerArguments(
  container: string,
  image: string,
  port: number,
  dataDir: string,
  settings: Readonly<Record<string, string | number>>,
): string[] {
  const owner = process.getuid === undefined ? [] : [`--user=${process.getuid()}:${process.getgid?.() ?? 0}`];
  return [
    'run',
    '--rm',
    `--name=${container}`,
    `--publish=127.0.0.1:${port}:6379`,
    `--mount=type=bind,source=${dataDir},target=/data`,
    ...owner,
    image,
    'redis-server',
    // Inside its network the container listens to all; outside only this machine reaches the published port.
    ...redisArguments({ bind: '0.0.0.0', 'protected-mode': 'no', port: 6379, dir: '/data', ...settings }),
  ];
}

/** Whether our server answers: somebody else's on the same port has another pid. */
async function answers(server: GuardedProcess, port: number, found: RedisServer): Promise<boolean> {
  if (!server.isRunning()) {
    const { code, signal } = await server.exited;
    const words = server.logs().slice(-15).join('\n');
    throw new DevstackError('start_failed', `Redis ended with ${signal ?? code} at its start:\n${words}`);
  }
  // While it reads its data it answers -LOADING.
  if (!(await askRedis(port, 'PING'))?.startsWith('+PONG')) return false;
  if (found.kind === 'docker') return true;
  return (await askRedis(port, 'INFO server'))?.includes(`process_id:${server.pid}\r`) ?? false;
}

function pidFile(dataDir: string): string {
  return join(dataDir, 'redis.pid');
}

/**
 * Two servers in one folder would spoil each other's append-only file, and Redis has no lock against it: its pid file has
 * to do. Waits 3 s for a server that is stopping, as after a `kill -9` of the process that had started it.
 */
async function freeFolder(dataDir: string): Promise<void> {
  const giveUpAt = performance.now() + 3_000;
  for (;;) {
    const pid = Number(await readFile(pidFile(dataDir), 'utf8').catch(() => ''));
    if (!Number.isInteger(pid) || pid <= 0 || !isRunning(pid) || !(await isRedis(pid))) return;
    if (performance.now() >= giveUpAt) {
      throw new DevstackError(
        'folder_in_use',
        `a Redis with pid ${pid} is running in ${dataDir}: stop it (kill ${pid}), or choose another folder`,
      );
    }
    await sleep(50);
  }
}

async function isRedis(pid: number): Promise<boolean> {
  if (process.platform !== 'linux') return true;
  const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
  return /^(redis|valkey)/.test(name);
}

function onlySet(env: Environment): Record<string, string> {
  const set: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) if (value !== undefined) set[name] = value;
  return set;
}
