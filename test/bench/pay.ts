import { waitFor } from '@lapse/devstack';
import { createDeadlines, type Deadlines } from '@lapse/deadlines';
import { createLog, createMetrics } from '@lapse/runtime';
import { Queue } from 'bullmq';

import { headersOf, loadSeconds, paymentOf, skuCount, wideStock } from './checkout-load.ts';
import {
  alternate,
  atLeast,
  medianOf,
  ratio,
  tableOf,
  type Bench,
  type Contender,
  type Figures,
} from './harness.ts';
import { sendLoad } from './http-load.ts';
import { plainJob, plainQueueName } from './references/plain-deadlines.ts';
import { apiKey, shopOf, withShops, type Shop } from './shops.ts';
import { holdPlaced } from './stage.ts';

const connections = 128;
/** Placed and armed before each round, the same for both: a load that pays them all just ends earlier. */
const orderCount = 60_000;
const paymentWindowMs = 30 * 60_000;

/** Payments over HTTP, each of an order that was placed and armed before, and its job removed. */
export const pay: Bench = {
  about: `payments over HTTP with their disarm, ${connections} connections, beside the plain service`,
  run: (options) =>
    withShops(['lapse', 'plain'], options.onProgress, async (shops) => {
      const [lapseShop, plainShop] = [shopOf(shops, 'lapse'), shopOf(shops, 'plain')];
      const deadlines = lapseDeadlines(lapseShop.redisUrl);
      const queue = new Queue(plainQueueName, { connection: { url: plainShop.redisUrl } });
      try {
        const [lapse, plain] = await alternate(
          [payContender(lapseShop, lapseTimer(deadlines)), payContender(plainShop, plainTimer(queue))],
          options,
        );
        if (lapse === undefined || plain === undefined) throw new Error('nothing was measured');
        return {
          tables: [tableOf(`Payments over HTTP, ${connections} connections`, [lapse, plain])],
          charts: [
            {
              file: 'pay',
              title: `Payments a second, ${connections} connections`,
              kind: 'bars',
              unit: 'payments/s',
              labels: [lapse.name, plain.name],
              series: [
                { name: 'payments/s', values: [lapse, plain].map((one) => medianOf(one, 'payments/s')) },
              ],
            },
          ],
          verdicts: [
            atLeast(
              `payments, ${connections} connections, times the plain service`,
              4,
              ratio(lapse, plain, 'payments/s'),
            ),
          ],
        };
      } finally {
        await Promise.all([deadlines.stop(), queue.close()]);
      }
    }),
};

/** The jobs of a shop, seen from outside. */
interface Timer {
  arm(orders: readonly PlacedOrder[]): Promise<void>;
  countArmed(): Promise<number>;
}

interface PlacedOrder {
  readonly id: string;
  readonly amount: number;
  readonly createdAt: Date;
}

function lapseDeadlines(redisUrl: string): Deadlines {
  return createDeadlines({ redisUrl, log: createLog('bench', 'warn'), metrics: createMetrics() });
}

function lapseTimer(deadlines: Deadlines): Timer {
  return {
    async arm(orders) {
      const { failed } = await deadlines.armMany(
        orders.map(({ id, createdAt }) => ({
          orderId: id,
          partition: 0,
          createdAt,
          expireAt: new Date(createdAt.getTime() + paymentWindowMs),
        })),
      );
      if (failed > 0) throw new Error(`${failed} deadlines were not armed`);
    },
    countArmed: async () => (await deadlines.depths([0])).get(0)?.delayed ?? 0,
  };
}

function plainTimer(queue: Queue): Timer {
  return {
    async arm(orders) {
      for (let start = 0; start < orders.length; start += 500) {
        await queue.addBulk(orders.slice(start, start + 500).map(({ id }) => plainJob(id, paymentWindowMs)));
      }
    },
    countArmed: () => queue.getDelayedCount(),
  };
}

function payContender(shop: Shop, timer: Timer): Contender {
  return {
    name: shop.name,
    async measure(): Promise<Figures> {
      await shop.empty(wideStock);
      const orders = await placeOrders(shop);
      await timer.arm(orders);
      const { answeredCount, ...measured } = await sendLoad({
        url: shop.url,
        connections,
        seconds: loadSeconds,
        headers: headersOf(apiKey),
        requests: orders.map(paymentOf),
      });
      await expectPaid(shop, timer, answeredCount);
      return { 'payments/s': measured.perSecond, 'p50 ms': measured.p50Ms, 'p99 ms': measured.p99Ms };
    },
  };
}

/** Places orders of two items each, with their holds and events, as checkouts would have. */
async function placeOrders({ database }: Shop): Promise<readonly PlacedOrder[]> {
  const { rows } = await database.query<PlacedOrder>(
    `with drawn as (
       select uuidv7() as id, n, (n * 7919) % $2 as first, ((n * 7919) % $2 + 1 + n % ($2 - 1)) % $2 as second,
         date_trunc('milliseconds', clock_timestamp()) as at
       from generate_series(1, $1::int) as n
     ), placed as (
       insert into orders (id, partition, reference, channel, payment_method, currency, amount, items, metadata,
         created_at, deadline_at, expire_at, check_at)
       select id, 0, 'cart-' || n, 'web', 'card', 'EUR', 1999 + 2 * 550,
         jsonb_build_array(
           jsonb_build_object('sku', 'sku-' || first, 'quantity', 1, 'unitAmount', 1999),
           jsonb_build_object('sku', 'sku-' || second, 'quantity', 2, 'unitAmount', 550)),
         '{}', at, at + $3 * interval '1 ms', at + $3 * interval '1 ms', at + $3 * interval '1 ms'
       from drawn
       returning id, amount, items, created_at
     ), logged as (
       insert into events (order_id, type, actor, at, data)
       select id, 'order.placed', 'bench', created_at, '{}' from placed
     ), ${holdPlaced}
     select id, amount, created_at as "createdAt" from placed`,
    [orderCount, skuCount, paymentWindowMs],
  );
  await database.query('analyze orders, events, stock');
  await database.query('checkpoint');
  return rows;
}

/** @throws Error unless exactly the answered payments are in the rows, and exactly their jobs are gone */
async function expectPaid(shop: Shop, timer: Timer, wanted: number): Promise<void> {
  const { rows } = await shop.database.query<{ paid: number; payments: number; events: number }>(
    `select
       (select count(*) from orders where status = 'paid') as paid,
       (select count(*) from payments where outcome = 'paid') as payments,
       (select count(*) from events where type = 'order.paid') as events`,
  );
  const [found] = rows;
  if (found?.paid !== wanted || found.payments !== wanted || found.events !== wanted) {
    throw new Error(`${shop.name} answered ${wanted} payments, but its rows are ${JSON.stringify(found)}`);
  }
  await waitFor(async () => (await timer.countArmed()) === orderCount - wanted, {
    what: `the jobs of ${wanted} paid orders to be gone`,
  });
  await shop.expectInvariants();
}
