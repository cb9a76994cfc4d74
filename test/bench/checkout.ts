import {
  alternate,
  atLeast,
  atMost,
  medianOf,
  ratio,
  tableOf,
  type Bench,
  type BenchOptions,
  type Chart,
  type Series,
  type Table,
  type Verdict,
} from './harness.ts';
import { checkoutContender, drawTwoItems, wideStock } from './checkout-load.ts';
import { shopNames, shopOf, withShops, type Shop, type ShopKind } from './shops.ts';

const connectionCounts = [1, 8, 32, 128, 256];
/** Where the promise is given. */
const promisedAt = 128;

/** What the contenders measured with so many connections. */
interface Step {
  readonly connections: number;
  readonly lapse: Series;
  readonly plain: Series;
  readonly door: Series;
}

/** Checkouts over HTTP beside the plain service, and the door alone as the most that can be reached. */
export const checkout: Bench = {
  about: 'checkouts over HTTP, 1 to 256 connections, beside one transaction and one queue.add for each',
  run: (options) =>
    withShops(['lapse', 'plain', 'door'], options.onProgress, async (shops) => {
      const steps: Step[] = [];
      for (const connections of connectionCounts) steps.push(await measureStep(shops, connections, options));
      return { tables: [table(steps)], charts: charts(steps), verdicts: steps.flatMap(verdicts) };
    }),
};

async function measureStep(
  shops: ReadonlyMap<ShopKind, Shop>,
  connections: number,
  options: BenchOptions,
): Promise<Step> {
  const load = { connections, stock: wideStock, drawItems: drawTwoItems };
  const [lapse, plain, door] = await alternate(
    (['lapse', 'plain', 'door'] as const).map((kind) => checkoutContender(shopOf(shops, kind), load)),
    options,
  );
  if (lapse === undefined || plain === undefined || door === undefined)
    throw new Error('nothing was measured');
  return { connections, lapse, plain, door };
}

function table(steps: readonly Step[]): Table {
  const measured = tableOf(
    'Checkout over HTTP; the door alone is the most that can be reached behind it',
    steps.flatMap(({ lapse, plain, door }) => [lapse, plain, door]),
  );
  const ratios = steps.flatMap(({ lapse, plain, door }) =>
    [lapse, plain, door].map((series) => ratio(series, plain, 'orders/s')),
  );
  const lines = measured.lines.map((line, n) => Object.assign({}, line, { 'times plain': ratios[n] ?? NaN }));
  return { ...measured, lines };
}

function charts(steps: readonly Step[]): Chart[] {
  const labels = steps.map(({ connections }) => String(connections));
  const lines = (figure: string) =>
    (['lapse', 'plain', 'door'] as const).map((kind) => ({
      name: shopNames[kind],
      values: steps.map((step) => medianOf(step[kind], figure)),
    }));
  return [
    {
      file: 'checkout',
      title: 'Checkouts a second, by connections',
      kind: 'lines',
      unit: 'orders/s',
      labels,
      series: lines('orders/s'),
    },
    {
      file: 'checkout-p99',
      title: 'The slowest checkout in a hundred (p99), by connections',
      kind: 'lines',
      unit: 'ms',
      labels,
      series: lines('p99 ms').filter((_, n) => n < 2),
      logarithmic: true,
    },
  ];
}

function verdicts({ connections, lapse, plain }: Step): Verdict[] {
  if (connections !== promisedAt) return [];
  return [
    atLeast(
      `checkouts, ${connections} connections, times the plain service`,
      5,
      ratio(lapse, plain, 'orders/s'),
    ),
    atMost(
      `their p99 ms, against the plain service's p50`,
      Math.round(medianOf(plain, 'p50 ms') * 10) / 10,
      medianOf(lapse, 'p99 ms'),
    ),
  ];
}
