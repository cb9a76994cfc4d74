import { spawnApp, startServers, waitFor } from '@lapse/devstack';
import { migrationsDir } from '@lapse/orders';
import { createLog, migrate, openDatabase, type Database } from '@lapse/runtime';
import { Redis } from 'ioredis';

import { alternate, atLeast, medianOf, ratio, tableOf, type Bench, type Series } from './harness.ts';
import { root } from '../root.ts';

const orderCount = 100_000;
const figure = 'deadlines/s';

/** How fast every pending deadline is armed again after a flush, beside the plain commands without any check. */
export const rebuild: Bench = {
  about: `Redis is flushed with ${orderCount.toLocaleString('en')} deadlines pending; a worker arms them again`,
  async run(options) {
    const servers = await startServers({ onNotice: options.onProgress });
    const log = createLog('bench', 'warn');
    await migrate({ url: servers.databaseUrl, dir: migrationsDir, log });
    const database = openDatabase({ url: servers.databaseUrl, app: 'bench', log });
    await insertPending(database);
    const worker = await spawnApp({
      app: 'worker',
      root,
      env: {
        DATABASE_URL: servers.databaseUrl,
        REDIS_URL: servers.redisUrl,
        LAPSE_WORKER_PORT: '0',
        LAPSE_HOST: '127.0.0.1',
        LAPSE_PARTITIONS: '4',
      },
    });
    const redis = new Redis(servers.redisUrl);
    let rebuildCount = 0;
    try {
      const [lapse, plain] = await alternate(
        [
          {
            name: 'Lapse, rows checked',
            async measure() {
              // The first is the worker's own: its Redis is new.
              if (rebuildCount > 0) await redis.flushall();
              rebuildCount += 1;
              return { [figure]: orderCount / ((await rebuildMs(database, rebuildCount)) / 1000) };
            },
          },
          {
            name: 'HSET and ZADD alone',
            measure: async () => ({ [figure]: await plainRate(redis) }),
          },
        ],
        options,
      );
      return reportOf(lapse, plain);
    } finally {
      redis.disconnect();
      await worker.stop();
      await database.end();
      await servers.stop();
    }
  },
};

function reportOf(lapse: Series | undefined, plain: Series | undefined) {
  if (lapse === undefined || plain === undefined) throw new Error('a contender was not measured');
  const measured = tableOf(`Rebuild of ${orderCount.toLocaleString('en')} pending deadlines`, [lapse, plain]);
  const shares = [ratio(lapse, plain, figure), 1];
  const lines = measured.lines.map((line, n) => ({ ...line, 'of the plain commands': shares[n] ?? '' }));
  return {
    tables: [{ ...measured, lines }],
    charts: [],
    verdicts: [atLeast('rebuild, deadlines/s', 15_000, medianOf(lapse, figure))],
  };
}

async function insertPending(database: Database): Promise<void> {
  await database.query(
    `insert into orders (id, partition, channel, payment_method, currency, amount, items, metadata,
       created_at, deadline_at, expire_at, check_at)
     select gen_random_uuid(), n % 4, 'default', 'card', 'EUR', 1, '[{"sku": "mug", "quantity": 1, "unitAmount": 1}]',
       '{}', clock_timestamp(), due, due, due
     from generate_series(1, $1) as n
     cross join lateral (select clock_timestamp() + interval '1 hour' + n * interval '1 ms' as due) as deadline`,
    [orderCount],
  );
  await database.query('analyze orders');
}

/** Waits for the rebuild of that number; answers how long it took, by the database's clock. */
function rebuildMs(database: Database, rebuildCount: number): Promise<number> {
  return waitFor(
    async () => {
      const { rows } = await database.query<{ ms: number }>(
        `select (extract(epoch from done_at - started_at) * 1000)::float8 as ms from rebuilds
         where done_at is not null order by started_at offset $1`,
        [rebuildCount - 1],
      );
      return rows[0]?.ms;
    },
    { what: 'the rebuild', timeoutMs: 120_000 },
  );
}

/** The reference: a pipeline of the two commands a job is made of, in pages of 500. */
async function plainRate(redis: Redis): Promise<number> {
  const startedAt = performance.now();
  for (let n = 0; n < orderCount; n += 500) {
    const pipeline = redis.pipeline();
    for (let k = n; k < n + 500; k += 1) {
      pipeline.hset(`plain:${k}`, 'name', 'expire', 'data', '{}').zadd('plain', k, `plain:${k}`);
    }
    await pipeline.exec();
  }
  return orderCount / ((performance.now() - startedAt) / 1000);
}
