import { readFile } from 'node:fs/promises';
import { arch, cpus, platform, release, totalmem } from 'node:os';

import { connectRedis, createLog, openDatabase } from '@lapse/runtime';

/** What a figure depends on: the machine and the versions. */
export type Surroundings = Readonly<Record<string, string | number>>;

/**
 * Tells what figures were measured on: our version, those of Node and of the servers, and the machine.
 *
 * @throws what the clients throw where a server does not answer
 */
export async function surroundings(servers: {
  readonly databaseUrl: string;
  readonly redisUrl: string;
}): Promise<Surroundings> {
  const log = createLog('test', 'silent');
  const database = openDatabase({ url: servers.databaseUrl, app: 'test', log, max: 1 });
  const redis = connectRedis({ url: servers.redisUrl, role: 'worker', log });
  try {
    const { rows } = await database.query<{ server_version: string }>('show server_version');
    const info = await redis.info('server');
    const workspace: unknown = JSON.parse(
      await readFile(new URL('../package.json', import.meta.url), 'utf8'),
    );
    return {
      lapse: String(Reflect.get(Object(workspace), 'version')),
      node: process.version,
      postgresql: rows[0]?.server_version ?? '?',
      redis: /redis_version:(\S+)/.exec(info)?.[1] ?? '?',
      system: `${platform()} ${release()} ${arch()}`,
      processor: cpus()[0]?.model ?? '?',
      coreCount: cpus().length,
      memoryGiB: Math.round(totalmem() / 2 ** 30),
    };
  } finally {
    redis.disconnect();
    await database.end();
  }
}
