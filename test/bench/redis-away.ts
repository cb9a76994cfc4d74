import { createClient, type LapseClient } from '@lapse/client';
import { inParallel, spawnApp, startProxy, startServers, waitFor, type Proxy } from '@lapse/devstack';
import { migrationsDir } from '@lapse/orders';
import { createLog, migrate, openDatabase, type Database } from '@lapse/runtime';

import { alternate, tableOf, type Bench, type Figures } from './harness.ts';
import { root } from '../root.ts';
import { apiKey } from './shops.ts';

const orderCount = 300;

/** What checkouts cost while Redis is there, stopped, and silent; and how late the sweeper is without it. */
export const redisAway: Bench = {
  about: 'checkouts and lateness while Redis is there, silent, and stopped',
  async run(options) {
    const servers = await startServers({ onNotice: options.onProgress });
    const log = createLog('bench', 'warn');
    const proxy = await startProxy({
      target: { host: '127.0.0.1', port: Number(new URL(servers.redisUrl).port) },
    });
    await migrate({ url: servers.databaseUrl, dir: migrationsDir, log });
    const env = {
      DATABASE_URL: servers.databaseUrl,
      REDIS_URL: proxy.urlFor(servers.redisUrl),
      LAPSE_HOST: '127.0.0.1',
      LAPSE_API_PORT: '0',
      LAPSE_WORKER_PORT: '0',
      LAPSE_API_KEY: apiKey,
    };
    const [api, worker] = await Promise.all([
      spawnApp({ app: 'api', root, env }),
      spawnApp({ app: 'worker', root, env }),
    ]);
    const database = openDatabase({ url: servers.databaseUrl, app: 'bench', log });
    try {
      const client = createClient({ baseUrl: api.url, apiKey });
      await client.setStock('mug', null);
      const measureWhile = async (hurt: (proxy: Proxy) => unknown): Promise<Figures> => {
        await hurt(proxy);
        try {
          return await measure(client, database);
        } finally {
          await proxy.restore();
          await untilReady(api.url);
        }
      };
      const all = await alternate(
        [
          { name: 'there', measure: () => measureWhile(() => undefined) },
          { name: 'silent', measure: () => measureWhile((redis) => redis.blackhole()) },
          { name: 'stopped', measure: () => measureWhile((redis) => redis.refuse()) },
        ],
        options,
      );
      return { tables: [tableOf('Redis is …', all)], charts: [], verdicts: [] };
    } finally {
      await database.end();
      await Promise.all([api.stop(), worker.stop()]);
      await proxy.stop();
      await servers.stop();
    }
  },
};

async function untilReady(apiUrl: string): Promise<void> {
  await waitFor(async () => (await (await fetch(`${apiUrl}/readyz`)).text()).includes('"redis":"ok"'), {
    what: 'redis to be back',
    timeoutMs: 20_000,
  });
}

/** Places orders four at a time, waits for their end, and answers with milliseconds. */
async function measure(client: LapseClient, database: Database): Promise<Figures> {
  const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];
  const placed = await inParallel(orderCount, 4, async () => {
    const startedAt = performance.now();
    const { id } = await client.checkout({ currency: 'EUR', items, paymentWindowMs: 1000 });
    return { id, tookMs: performance.now() - startedAt };
  });
  await untilNonePending(database);
  const took = placed.map(({ tookMs }) => tookMs).toSorted((a, b) => a - b);
  const { rows } = await database.query<{ p50: number; max: number; swept: number }>(
    `select
       percentile_cont(0.5) within group (order by (data->>'latenessMs')::float8) as p50,
       max((data->>'latenessMs')::float8) as max,
       count(*) filter (where actor = 'sweeper') as swept
     from events where type = 'order.cancelled' and order_id = any ($1)`,
    [placed.map(({ id }) => id)],
  );
  const [lateness] = rows;
  if (lateness === undefined) throw new Error('no lateness was told');
  const at = (share: number): number => took[Math.floor((took.length - 1) * share)] ?? NaN;
  return {
    'checkout p50 ms': at(0.5),
    'p99 ms': at(0.99),
    'max ms': at(1),
    'lateness p50 ms': lateness.p50,
    'lateness max ms': lateness.max,
    'swept %': (lateness.swept / orderCount) * 100,
  };
}

async function untilNonePending(database: Database): Promise<void> {
  await waitFor(
    async () => {
      const { rows } = await database.query("select 1 from orders where status = 'pending_payment' limit 1");
      return rows.length === 0;
    },
    { what: 'every order to be cancelled', timeoutMs: 20_000 },
  );
}
