import { checkoutContender } from './checkout-load.ts';
import { alternate, atLeast, medianOf, ratio, tableOf, type Bench } from './harness.ts';
import { shopNames, shopOf, withShops } from './shops.ts';

const connections = 256;
const sku = 'hot';
/** Tracked, and never sold out: the figure is of orders, not of refusals. */
const stock = new Map([[sku, 1_000_000_000]]);

/** Everybody buys the same: every order changes the same row of stock. */
export const hotSku: Bench = {
  about: `checkouts of one tracked SKU over HTTP, ${connections} connections, beside the plain service`,
  run: (options) =>
    withShops(['lapse', 'plain'], options.onProgress, async (shops) => {
      const load = { connections, stock, drawItems: () => [{ sku, quantity: 1, unitAmount: 4900 }] };
      const [lapse, plain] = await alternate(
        (['lapse', 'plain'] as const).map((kind) => checkoutContender(shopOf(shops, kind), load)),
        options,
      );
      if (lapse === undefined || plain === undefined) throw new Error('nothing was measured');
      return {
        tables: [tableOf('Checkouts of one SKU over HTTP', [lapse, plain])],
        charts: [
          {
            file: 'hot-sku',
            title: `Checkouts of one SKU a second, ${connections} connections`,
            kind: 'bars',
            unit: 'orders/s',
            labels: [shopNames.lapse, shopNames.plain],
            series: [
              { name: 'orders/s', values: [medianOf(lapse, 'orders/s'), medianOf(plain, 'orders/s')] },
            ],
          },
        ],
        verdicts: [
          atLeast('checkouts of one SKU, times the plain service', 10, ratio(lapse, plain, 'orders/s')),
        ],
      };
    }),
};
