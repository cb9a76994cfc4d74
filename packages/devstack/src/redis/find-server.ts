import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type AptProgram, cachedProgram, unpackProgram } from '../apt.ts';
import { type Environment, findCommand, machineEnvironment, type OnNotice } from '../environment.ts';
import { RedisServerNotFound } from '../errors.ts';

const run = promisify(execFile);

/** Redis as Debian and Ubuntu have it. */
export const aptRedis: AptProgram = {
  name: 'Redis',
  package: 'redis-server',
  path: join('usr', 'bin', 'redis-server'),
  libraries: ['redis-tools', 'libjemalloc2', 'liblzf1', 'libatomic1'],
};

/** How a Redis server can be started here. */
export type RedisServer =
  | {
      readonly kind: 'program';
      readonly path: string;
      /** For LD_LIBRARY_PATH; undefined where the machine has the libraries. */
      readonly libraryPath?: string;
    }
  | {
      readonly kind: 'docker';
      /** The docker command. */
      readonly path: string;
    };

/** What `findRedisServer` may look at. */
export interface FindRedisOptions {
  /** The machine's variables; default: this process's. */
  readonly env?: Environment;
  /** Hears of the slow way, which takes seconds. */
  readonly onNotice?: OnNotice;
}

/**
 * Finds a Redis server, the first of: `valkey-server` or `redis-server` on PATH; the copy that apt fetched earlier; a copy
 * that apt fetches now (Debian, Ubuntu; no root); a Docker engine. npm ships none that runs and keeps its data.
 *
 * @throws RedisServerNotFound when there is none, naming every way to get one
 */
export async function findRedisServer({
  env: given,
  onNotice = () => {},
}: FindRedisOptions = {}): Promise<RedisServer> {
  const env = machineEnvironment(given);
  const tried: string[] = [];
  for (const command of ['valkey-server', 'redis-server']) {
    const path = await findCommand(command, env);
    if (path !== undefined) return { kind: 'program', path };
  }
  tried.push(`valkey-server and redis-server: not on PATH (${env['PATH'] || 'which is empty'})`);

  try {
    const redis = (await cachedProgram(aptRedis, env)) ?? (await unpackProgram(aptRedis, env, onNotice));
    return { kind: 'program', ...redis };
  } catch (error) {
    tried.push(`a private copy by apt: ${wordsOf(error)}`);
  }

  const docker = await findCommand('docker', env);
  if (docker === undefined) {
    tried.push('Docker: not on PATH');
  } else {
    try {
      await run(docker, ['info'], { env: { ...env }, timeout: 10_000 });
      return { kind: 'docker', path: docker };
    } catch (error) {
      tried.push(`Docker: no engine answers (${wordsOf(error)})`);
    }
  }
  throw new RedisServerNotFound(tried);
}

/** The last line that says something: in a command's own words where it gave some. */
function wordsOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const words = 'stderr' in error && typeof error.stderr === 'string' ? error.stderr : '';
  return (words.trim() || error.message.trim()).split('\n').at(-1) ?? error.message;
}
