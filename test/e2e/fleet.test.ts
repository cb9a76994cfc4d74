import { inParallel } from '@lapse/devstack';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { startFleet, untilNonePending, type Fleet } from './fleet.ts';

const orderCount = 20_000;
let fleet: Fleet;

beforeAll(async () => {
  fleet = await startFleet({ apiCount: 1, workerCount: 3, env: { LAPSE_PARTITIONS: '4' } });
  await fleet.client.setStock('mug', orderCount);
});

afterAll(async () => {
  await fleet.stop();
});

/** What happens to an order: of thirty, ten are paid, ten lapse, three are extended and lapse, seven are cancelled. */
function fateOf(n: number): 'paid' | 'lapses' | 'extended' | 'cancelled' {
  const share = n % 30;
  if (share < 10) return 'paid';
  if (share < 20) return 'lapses';
  return share < 23 ? 'extended' : 'cancelled';
}

async function live(n: number): Promise<void> {
  const { client } = fleet;
  const order = await client.checkout({
    reference: `fleet-${n}`,
    currency: 'EUR',
    items: [{ sku: 'mug', quantity: 1, unitAmount: 100 }],
    paymentWindowMs: 8000 + (n % 4000),
  });
  switch (fateOf(n)) {
    case 'paid':
      await client.pay(order.id, {
        provider: 'shop',
        providerPaymentId: order.id,
        amount: 100,
        currency: 'EUR',
      });
      break;
    case 'extended':
      await client.extend(order.id, { byMs: 2000 });
      break;
    case 'cancelled':
      await client.cancel(order.id);
      break;
    case 'lapses':
      break;
  }
}

test('20,000 orders over three workers: each ends as it should, once, and the invariants hold', async () => {
  await inParallel(orderCount, 64, live);
  await untilNonePending(fleet.database, 60_000);

  const { rows: endings } = await fleet.database.query<{ ending: string; count: number }>(
    `select coalesce(cancel_reason, status) as ending, count(*) from orders group by 1 order by 1`,
  );
  const expected = { customer: 0, paid: 0, payment_timeout: 0 };
  for (let n = 0; n < orderCount; n += 1) {
    const fate = fateOf(n);
    expected[fate === 'paid' ? 'paid' : fate === 'cancelled' ? 'customer' : 'payment_timeout'] += 1;
  }
  expect(Object.fromEntries(endings.map(({ ending, count }) => [ending, count]))).toEqual(expected);

  const { rows: doubled } = await fleet.database.query(
    "select order_id from events where type = 'order.cancelled' group by order_id having count(*) > 1",
  );
  expect(doubled).toEqual([]);
  expect(await fleet.client.stock('mug')).toEqual({
    sku: 'mug',
    onHand: orderCount - expected.paid,
    held: 0,
    available: orderCount - expected.paid,
  });
  await fleet.expectInvariants();

  const { rows: lateness } = await fleet.database.query<{
    actor: string;
    count: number;
    p50: number;
    p99: number;
  }>(
    `select actor, count(*),
       percentile_cont(0.5) within group (order by (data->>'latenessMs')::float8) as p50,
       percentile_cont(0.99) within group (order by (data->>'latenessMs')::float8) as p99
     from events where type = 'order.cancelled' and data->>'reason' = 'payment_timeout' group by actor order by actor`,
  );
  for (const { actor, count, p50, p99 } of lateness) {
    console.log(`cancelled by ${actor}: ${count}, lateness p50 ${p50} ms, p99 ${Math.round(p99)} ms`);
  }
}, 120_000);
