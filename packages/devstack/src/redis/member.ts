import { type Environment, machineEnvironment, type OnNotice } from '../environment.ts';
import { DevstackError } from '../errors.ts';
import type { RunningServer } from '../postgres/start.ts';
import { findRedisServer, type RedisServer } from './find-server.ts';
import { startRedis } from './start.ts';

/** One Redis of several that belong together. It may be killed, and started again where it was. */
export interface RedisMember {
  readonly port: number;
  /** Whether it has not been killed or stopped. */
  readonly isRunning: boolean;
  /** Ends it as a crash would, and waits until it is gone. */
  kill(): Promise<void>;
  /** Stops and continues it, as a machine that hangs. */
  pause(): void;
  resume(): void;
  /** Starts it again on its port, with the data it had. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts one Redis with `settings` on top of `redisSettings`. @throws as `startRedis` */
export async function startMember(options: {
  dataDir: string;
  port: number;
  settings: Readonly<Record<string, string | number>>;
  env?: Environment | undefined;
}): Promise<RedisMember> {
  const { dataDir, port, settings, env } = options;
  const start = (): Promise<RunningServer> =>
    startRedis({ dataDir, port, settings, ...(env === undefined ? {} : { env }) });
  let server = await start();
  let isRunning = true;
  const end = async (ending: () => Promise<unknown>): Promise<void> => {
    isRunning = false;
    await ending();
  };
  return {
    port,
    get isRunning() {
      return isRunning;
    },
    kill: () =>
      end(() => {
        server.kill('SIGKILL');
        return server.exited;
      }),
    pause: () => server.kill('SIGSTOP'),
    resume: () => server.kill('SIGCONT'),
    async restart() {
      server = await start();
      isRunning = true;
    },
    stop: () => end(() => server.stop()),
  };
}

/**
 * Finds a Redis server that runs as a plain process: those of a cluster have to reach each other, and clients them, by
 * the addresses they name, which they do not from inside containers.
 *
 * @throws RedisServerNotFound; DevstackError `redis_not_found` where there is a Docker engine only
 */
export async function findRedisProgram(
  what: string,
  given: { env?: Environment | undefined; onNotice?: OnNotice | undefined },
): Promise<Extract<RedisServer, { kind: 'program' }>> {
  const env = machineEnvironment(given.env);
  const onNotice = given.onNotice ?? (() => {});
  const found = await findRedisServer({ env, onNotice });
  if (found.kind === 'program') return found;
  throw new DevstackError(
    'redis_not_found',
    `${what} needs redis-server or valkey-server on this machine, and there is a Docker engine only: ` +
      'install it ("apt install redis-server", "dnf install valkey", "brew install redis")',
  );
}
