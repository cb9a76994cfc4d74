import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Environment, machineEnvironment, minimalEnvironment, type OnNotice } from '../environment.ts';
import { freePort, onPort } from '../ports.ts';
import { waitFor } from '../wait-for.ts';
import { type GuardedProcess, spawnGuarded } from '../watchdog/spawn-guarded.ts';
import { askRedis } from './ask.ts';
import { findRedisProgram, startMember, type RedisMember } from './member.ts';

/** What the sentinels call the master. */
const masterName = 'lapse';

/** How many servers and sentinels, and where their data go. */
export interface RedisSentinelOptions {
  /** A folder for those of its servers. */
  readonly dataDir: string;
  /** Default 1. */
  readonly replicas?: number;
  /** Default 3; a majority of them elects. */
  readonly sentinels?: number;
  /** After this long without an answer a sentinel takes the master for lost, ms. Default 1000. */
  readonly downAfterMs?: number;
  readonly onNotice?: OnNotice;
  readonly env?: Environment;
}

/** A master with replicas, and sentinels that watch it, on 127.0.0.1. */
export interface RedisSentinel {
  /** `redis+sentinel://` with all sentinels. */
  readonly url: string;
  /** The first master first. */
  readonly servers: readonly RedisMember[];
  /** The master as the sentinels see it; undefined while they disagree. */
  master(): Promise<RedisMember | undefined>;
  stop(): Promise<void>;
}

/**
 * Starts a master, its replicas and sentinels as processes of this machine. Takes about 3 s.
 *
 * @throws as `startRedis`; DevstackError `redis_not_found` where there is a Docker engine only, `not_ready`
 */
export async function startRedisSentinel(options: RedisSentinelOptions): Promise<RedisSentinel> {
  const { dataDir, replicas = 1, sentinels: sentinelCount = 3, downAfterMs = 1000, env } = options;
  const program = await findRedisProgram('Redis Sentinel', options);
  const servers: RedisMember[] = [];
  const sentinels: { readonly port: number; readonly process: GuardedProcess }[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(sentinels.map(({ process }) => process.stop()));
    await Promise.all(servers.map((server) => server.stop()));
  };
  const seen = (): Promise<SeenMaster[]> => Promise.all(sentinels.map(({ port }) => seenBy(port)));

  try {
    for (let n = 0; n <= replicas; n += 1) {
      const port = await freePort();
      const settings = { 'repl-diskless-sync-delay': 0 };
      servers.push(await startMember({ dataDir: join(dataDir, `redis-${n}`), port, settings, env }));
      // Not in its settings: after a failover the sentinels say who follows whom.
      if (n > 0) await askRedis(port, `REPLICAOF 127.0.0.1 ${servers[0]?.port ?? 0}`);
    }
    const masterPort = servers[0]?.port ?? 0;
    for (let n = 0; n < sentinelCount; n += 1) {
      sentinels.push(
        await onPort(undefined, 'a sentinel', async (port) => {
          const folder = join(dataDir, `sentinel-${n}`);
          await mkdir(folder, { recursive: true });
          // A sentinel keeps what it learns in its file of settings.
          const file = join(folder, 'sentinel.conf');
          await writeFile(file, sentinelSettings({ port, folder, masterPort, downAfterMs, sentinelCount }));
          const process = await spawnGuarded(program.path, [file, '--sentinel'], {
            name: `sentinel ${n + 1}`,
            cwd: folder,
            env: {
              ...minimalEnvironment(machineEnvironment(env)),
              ...(program.libraryPath === undefined ? {} : { LD_LIBRARY_PATH: program.libraryPath }),
            },
          });
          return { port, process };
        }),
      );
    }
    await waitFor(
      async () =>
        (await seen()).every(
          (master) =>
            master.isWell && master.replicaCount === replicas && master.sentinelCount === sentinelCount,
        ) && (await Promise.all(servers.slice(1).map(isInStep))).every(Boolean),
      { what: 'the sentinels to know each other and the replicas', timeoutMs: 60_000 },
    );
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    url: `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/${masterName}`,
    servers,
    async master() {
      const [first, ...others] = await seen();
      if (first === undefined || others.some(({ port }) => port !== first.port)) return undefined;
      return servers.find(({ port, isRunning }) => isRunning && port === first.port);
    },
    stop,
  };
}

function sentinelSettings(options: {
  port: number;
  folder: string;
  masterPort: number;
  downAfterMs: number;
  sentinelCount: number;
}): string {
  const { port, folder, masterPort, downAfterMs, sentinelCount } = options;
  const quorum = Math.floor(sentinelCount / 2) + 1;
  return [
    'bind 127.0.0.1',
    `port ${port}`,
    `dir "${folder}"`,
    `sentinel monitor ${masterName} 127.0.0.1 ${masterPort} ${quorum}`,
    `sentinel down-after-milliseconds ${masterName} ${downAfterMs}`,
    `sentinel failover-timeout ${masterName} 10000`,
    '',
  ].join('\n');
}

interface SeenMaster {
  readonly port: number;
  readonly isWell: boolean;
  readonly replicaCount: number;
  readonly sentinelCount: number;
}

/** The master as one sentinel sees it. */
async function seenBy(port: number): Promise<SeenMaster> {
  const line = /^master0:(.*)$/m.exec((await askRedis(port, 'INFO sentinel')) ?? '')?.[1] ?? '';
  const fields = new Map(
    line
      .trim()
      .split(',')
      .map((field) => {
        const [name = '', value = ''] = field.split('=');
        return [name, value] as const;
      }),
  );
  return {
    port: Number(fields.get('address')?.split(':').at(-1)),
    isWell: fields.get('status') === 'ok',
    replicaCount: Number(fields.get('slaves')),
    sentinelCount: Number(fields.get('sentinels')),
  };
}

async function isInStep({ port }: RedisMember): Promise<boolean> {
  return (await askRedis(port, 'INFO replication'))?.includes('master_link_status:up') ?? false;
}
