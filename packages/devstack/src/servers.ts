import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import type { Environment, OnNotice } from './environment.ts';
import { type RunningServer, startPostgres } from './postgres/start.ts';
import { startRedis } from './redis/start.ts';

/** Which servers to start, and where. */
export interface ServersOptions {
  /**
   * Folder for the data (`postgres/`, `redis/`) and the logs (`postgres.log`, `redis.log`). Default: a temporary one,
   * which `stop()` removes. Under root prefer that to a folder from `mkdtemp`: those are private, so PostgreSQL's data
   * would have to live elsewhere and stay there.
   */
  readonly dataDir?: string;
  /** A PostgreSQL to use instead of starting one. */
  readonly databaseUrl?: string;
  /** A Redis to use instead of starting one. */
  readonly redisUrl?: string;
  /** Default: free ones. */
  readonly postgresPort?: number;
  readonly redisPort?: number;
  /** Settings on top of `postgresSettings` and `redisSettings`. */
  readonly postgresSettings?: Readonly<Record<string, string | number>>;
  readonly redisSettings?: Readonly<Record<string, string | number>>;
  /** Hears what takes long or went elsewhere. */
  readonly onNotice?: OnNotice;
  /** The machine's variables; default: this process's. */
  readonly env?: Environment;
}

/** The two servers Lapse needs. */
export interface Servers {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  /** Missing where a URL was given. */
  readonly postgres?: RunningServer;
  readonly redis?: RunningServer;
  /** Stops what was started here, in good order. The data stays where a `dataDir` was given. */
  stop(): Promise<void>;
}

/**
 * Starts PostgreSQL and Redis side by side, each unless a URL stands for it. When one fails the other is stopped.
 *
 * @throws what `startPostgres` and `startRedis` throw; AggregateError when both fail
 */
export async function startServers(options: ServersOptions): Promise<Servers> {
  const dataDir = options.dataDir === undefined ? await temporaryFolder() : resolve(options.dataDir);
  const shared = {
    ...(options.onNotice === undefined ? {} : { onNotice: options.onNotice }),
    ...(options.env === undefined ? {} : { env: options.env }),
  };
  if (options.databaseUrl === undefined || options.redisUrl === undefined) {
    await mkdir(dataDir, { recursive: true });
  }
  const [postgres, redis] = await Promise.allSettled([
    options.databaseUrl === undefined
      ? startPostgres({
          ...shared,
          dataDir: join(dataDir, 'postgres'),
          logFile: join(dataDir, 'postgres.log'),
          ...(options.postgresPort === undefined ? {} : { port: options.postgresPort }),
          ...(options.postgresSettings === undefined ? {} : { settings: options.postgresSettings }),
        })
      : undefined,
    options.redisUrl === undefined
      ? startRedis({
          ...shared,
          dataDir: join(dataDir, 'redis'),
          logFile: join(dataDir, 'redis.log'),
          ...(options.redisPort === undefined ? {} : { port: options.redisPort }),
          ...(options.redisSettings === undefined ? {} : { settings: options.redisSettings }),
        })
      : undefined,
  ]);
  const failures = [postgres, redis].flatMap((result): unknown[] =>
    result.status === 'rejected' ? [result.reason] : [],
  );
  const started = [postgres, redis].flatMap((result) =>
    result.status === 'fulfilled' && result.value !== undefined ? [result.value] : [],
  );
  const stop = async (): Promise<void> => {
    await Promise.all(started.map((server) => server.stop()));
    if (options.dataDir !== undefined) return;
    // Its parent, should PostgreSQL's data have had to move; else the same folder again.
    for (const folder of [dataDir, ...started.map((server) => dirname(server.dataDir))]) {
      await rm(folder, { recursive: true, force: true });
    }
  };
  if (postgres.status === 'rejected' || redis.status === 'rejected') {
    await stop();
    throw failures.length === 1 ? failures[0] : new AggregateError(failures, failures.map(String).join('\n'));
  }
  return {
    databaseUrl: options.databaseUrl ?? urlOf(postgres.value),
    redisUrl: options.redisUrl ?? urlOf(redis.value),
    ...(postgres.value === undefined ? {} : { postgres: postgres.value }),
    ...(redis.value === undefined ? {} : { redis: redis.value }),
    stop,
  };
}

/** One that PostgreSQL's user may enter. */
async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lapse-servers-'));
  await chmod(folder, 0o755);
  return folder;
}

function urlOf(server: RunningServer | undefined): string {
  if (server === undefined) throw new Error('a server without a URL was not started');
  return server.url;
}
