import { spawnApp, type RunningApp } from '@lapse/devstack';

import { root } from '../root.ts';
import { checkoutsOf, drawTwoItems, headersOf, loadSeconds, wideStock } from './checkout-load.ts';
import { alternate, tableOf, type Bench, type Figures } from './harness.ts';
import { sendLoad } from './http-load.ts';
import { apiKey, apiSettings, shopOf, withShops, type Shop } from './shops.ts';

const apiCounts = [1, 2, 4] as const;
const connections = 256;
/** More than all of them answer together. */
const mostPerSecond = 16_000;

/** Checkouts with several api processes on one database and one Redis, and how many connections they hold. */
export const apis: Bench = {
  about: 'checkouts with 1, 2, 4 api processes, and how many connections to PostgreSQL they hold',
  run: (options) =>
    withShops(['lapse'], options.onProgress, async (shops) => {
      const shop = shopOf(shops, 'lapse');
      const more = await Promise.all(Array.from({ length: Math.max(...apiCounts) - 1 }, () => another(shop)));
      try {
        const urls = [shop.url, ...more.map(({ url }) => url)];
        const series = await alternate(
          apiCounts.map((count) => ({
            name: `${count} api ${count === 1 ? 'process' : 'processes'}`,
            measure: () => measure(shop, urls.slice(0, count)),
          })),
          options,
        );
        const title = `Checkouts over HTTP by api processes, ${connections} connections in all`;
        return { tables: [tableOf(title, series)], charts: [], verdicts: [] };
      } finally {
        await Promise.all(more.map((api) => api.stop()));
      }
    }),
};

function another({ databaseUrl, redisUrl }: Shop): Promise<RunningApp> {
  return spawnApp({ app: 'api', name: 'api', root, env: apiSettings(databaseUrl, redisUrl) });
}

async function measure(shop: Shop, urls: readonly string[]): Promise<Figures> {
  await shop.empty(wideStock);
  const loads = await Promise.all(
    urls.map((url) =>
      sendLoad({
        url,
        connections: connections / urls.length,
        seconds: loadSeconds,
        headers: headersOf(apiKey),
        requests: checkoutsOf(Math.ceil(mostPerSecond / urls.length) * loadSeconds, drawTwoItems),
      }),
    ),
  );
  const { rows } = await shop.database.query<{ count: number }>(
    `select count(*) as count from pg_stat_activity
     where datname = current_database() and application_name like '%api%'`,
  );
  await shop.expectInvariants();
  return {
    'orders/s': loads.reduce((sum, { perSecond }) => sum + perSecond, 0),
    'p50 ms': Math.max(...loads.map(({ p50Ms }) => p50Ms)),
    'p99 ms': Math.max(...loads.map(({ p99Ms }) => p99Ms)),
    'connections to PostgreSQL': rows[0]?.count ?? 0,
  };
}
