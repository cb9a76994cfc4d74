import type { Database } from '@lapse/runtime';

import type { Books, ProviderCounts } from './books.ts';
import { judge } from './judge.ts';
import { Load } from './load.ts';
import { countTold, settle } from './measure.ts';
import { planOrders, type Population } from './plan.ts';
import { watch, type Progress } from './progress.ts';
import type { Servers } from './servers.ts';
import { startSystem } from './system.ts';

/** How many of each kind there are, by its name. */
type Counts = Readonly<Record<string, number>>;

/** What became of the money. */
export interface MoneyCounts {
  /** `paid`, or why they were cancelled. */
  readonly orders: Counts;
  /** By state. */
  readonly attempts: Counts;
  /** Payments that the providers took, and how many of them for orders that are cancelled now. */
  readonly captures: { readonly taken: number; readonly ofCancelledOrders: number };
  /** By outcome. */
  readonly payments: Counts;
  /** By state. */
  readonly refunds: Counts;
  /** Refunds that the providers carried out, and payments that were returned more than once. */
  readonly returned: { readonly once: number; readonly twice: number };
  /** By reason. */
  readonly workList: Counts;
  /** See `countTold`. */
  readonly told: Counts;
  readonly providers: ProviderCounts;
}

/** What a money run found. */
export interface MoneyResult {
  readonly orderCount: number;
  readonly counts: MoneyCounts;
  readonly failures: Counts;
  /** Everything that is not as it should be. */
  readonly breaches: readonly string[];
  readonly tookMs: number;
}

/** Nearly everybody pays at a provider, and has a few seconds for it. */
const population: Population = {
  attemptShare: 0.9,
  windowMs: { least: 2000, most: 6000 },
  isStockScarce: false,
};

/** Calls without an answer that keep the next customer waiting: on a busy machine they come more slowly. */
const mostUnderWay = 100;

/**
 * Lets customers pay at providers that fail one call in five and lose, double and reorder their webhooks; then compares
 * every book.
 *
 * @param options.perSecond orders placed in a second
 */
export async function runMoney(options: {
  readonly orderCount: number;
  readonly perSecond: number;
  readonly seed: number;
  readonly servers: Servers;
  readonly onProgress: (progress: Progress) => void;
}): Promise<MoneyResult> {
  const { orderCount, perSecond, servers, onProgress } = options;
  const startedAt = performance.now();
  const seed = `${options.seed}/money`;
  const system = await startSystem(servers, seed);
  const load = new Load(system, { mostUnderWay });
  const progress = watch(system, load, { name: 'money', wantedCount: orderCount, onProgress });
  try {
    await load.setStock();
    progress.phase = 'load';
    await load.run(planOrders(seed, orderCount, (orderCount / perSecond) * 1000, population));
    progress.phase = 'settling';
    const unsettled = await settle(system);
    progress.phase = 'checking';
    const { breaches } = await judge(system, load, unsettled);
    return {
      orderCount: load.ledger.placedCount,
      counts: await countMoney(system.database, system.services.books(), system.services.counts()),
      failures: Object.fromEntries(load.failures),
      breaches,
      tookMs: Math.round(performance.now() - startedAt),
    };
  } finally {
    progress.stop();
    await system.stop();
  }
}

async function countMoney(database: Database, books: Books, providers: ProviderCounts): Promise<MoneyCounts> {
  const count = async (what: string, from: string): Promise<Counts> => {
    const { rows } = await database.query<{ what: string; count: number }>(
      `select ${what} as what, count(*) as count from ${from} group by 1 order by 2 desc`,
    );
    return Object.fromEntries(rows.map((row) => [row.what, row.count]));
  };
  const { rows: cancelled } = await database.query<{ id: string }>(
    "select id from orders where status = 'cancelled'",
  );
  const cancelledIds = new Set(cancelled.map(({ id }) => id));
  const taken = books.captures;
  const returned = new Set(
    books.refunds
      .filter(({ status }) => status !== 'failed')
      .map(({ providerPaymentId }) => providerPaymentId),
  );
  return {
    orders: await count('coalesce(cancel_reason, status)', 'orders'),
    attempts: await count('state', 'payment_attempts'),
    captures: {
      taken: taken.length,
      ofCancelledOrders: taken.filter(({ orderId }) => cancelledIds.has(orderId)).length,
    },
    payments: await count('outcome', 'payments'),
    refunds: await count('state', 'refunds'),
    returned: { once: returned.size - books.returnedTwice.length, twice: books.returnedTwice.length },
    workList: await count('listed_for', 'payments where listed_at is not null and resolved_at is null'),
    told: await countTold(database),
    providers,
  };
}

/** The counts as lines for people. */
export function moneyLines({ orderCount, counts, failures }: MoneyResult): string[] {
  const { captures, returned, providers } = counts;
  const { calls, failedCalls, lostAnswers, webhooksTold } = providers;
  const each = (all: Counts): string =>
    Object.entries(all)
      .map(([name, count]) => `${name.replaceAll('_', ' ')} ${number(count)}`)
      .join(', ') || 'none';
  const share = (count: number, of: number): string =>
    `${number(count)} (${of === 0 ? 0 : Math.round((count / of) * 1000) / 10} %)`;
  return [
    line('orders', number(orderCount), each(counts.orders)),
    line('attempts', each(counts.attempts)),
    line(
      'captures',
      number(captures.taken),
      `${number(captures.ofCancelledOrders)} of them for orders cancelled now`,
    ),
    line('payments', each(counts.payments)),
    line('refunds', each(counts.refunds)),
    line('returned', `${number(returned.once)} once`, `${number(returned.twice)} twice`),
    line('work list', each(counts.workList)),
    line('told', each(counts.told)),
    line(
      'webhooks',
      `${number(webhooksTold)} to tell`,
      `lost ${share(providers.webhooksLost, webhooksTold)}`,
      `doubled ${share(providers.webhooksDoubled, webhooksTold)}`,
      `reordered ${share(providers.webhooksReordered, webhooksTold)}`,
      `delivered ${number(providers.webhooksDelivered)}`,
      `given up ${number(providers.webhooksGivenUp)}`,
    ),
    line(
      'provider calls',
      number(calls),
      `failed ${share(failedCalls, calls)}`,
      `answers lost ${share(lostAnswers, calls)}`,
    ),
    line('failed requests', each(failures)),
  ];
}

function line(head: string, ...parts: readonly string[]): string {
  return `${head.padEnd(16)}${parts.join(', ')}`;
}

function number(value: number): string {
  return value.toLocaleString('en-US');
}
