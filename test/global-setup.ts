import { createTestDatabase, startContainers, startServers } from '@lapse/devstack';
import { migrationsDir } from '@lapse/orders';
import { connectRedis, createLog, loadSettings, migrate } from '@lapse/runtime';
import type { TestProject } from 'vitest/node';

import { invariants } from './invariants.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** A server on which a test file makes its own database. */
    readonly databaseUrl: string;
    /** The name of a migrated database to copy. */
    readonly templateDatabase: string;
    /** A Redis without a database: each test file uses one of its own. */
    readonly redisUrl: string;
    /** How many databases it has. */
    readonly redisDatabases: number;
    /** What must be true of the rows even where no worker runs. */
    readonly invariants: readonly { readonly name: string; readonly breaches: string }[];
  }
}

/** Starts the servers all tests share, and makes the database that test files copy. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const log = createLog('test', 'warn');
  const running = await servers();
  const { databaseUrl, redisUrl } = running;
  const template = await createTestDatabase({ adminUrl: databaseUrl });
  await migrate({ url: template.url, dir: migrationsDir, log });

  project.provide('databaseUrl', databaseUrl);
  project.provide('templateDatabase', new URL(template.url).pathname.slice(1));
  project.provide('redisUrl', redisUrl);
  project.provide('redisDatabases', await countDatabases(redisUrl));
  project.provide(
    'invariants',
    invariants.filter(({ needsWorker }) => needsWorker !== true),
  );
  return async () => {
    await template.drop();
    await running.stop();
  };
}

async function countDatabases(redisUrl: string): Promise<number> {
  const redis = connectRedis({ url: redisUrl, role: 'worker', log: createLog('test', 'warn') });
  try {
    const [, count] = await redis.config('GET', 'databases');
    return Number(count);
  } finally {
    redis.disconnect();
  }
}

interface TestServers {
  readonly databaseUrl: string;
  readonly redisUrl: string;
  stop(): Promise<void>;
}

/** `LAPSE_TEST_SERVERS` chooses: embedded ones, containers, or those at DATABASE_URL and REDIS_URL. */
async function servers(): Promise<TestServers> {
  const { testServers } = loadSettings(['testServers']);
  switch (testServers) {
    case 'embedded':
      return startServers({ onNotice: (notice) => console.log(notice) });
    case 'containers':
      return startContainers();
    case 'external': {
      const external = loadSettings(['databaseUrl', 'redisUrl']);
      return { ...external, stop: () => Promise.resolve() };
    }
  }
}
