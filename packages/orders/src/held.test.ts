import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeDue, openAttempt, openTestOrders, place, placeOverdue, type TestOrders } from './testing.ts';

let shop: TestOrders;
beforeAll(async () => {
  shop = await openTestOrders();
  await shop.orders.setStock('a', null);
});
afterAll(() => shop.close());

async function hold(verdict: 'unknown' | 'processing' | 'open', reference: string): Promise<string> {
  const order = await place(shop.orders, { reference });
  const { id } = await openAttempt(shop.orders, order.id);
  await shop.orders.recordVerdict({ attemptId: id, verdict, reason: `it is ${verdict}`, actor: 'test' });
  return id;
}

const references = async (page: Parameters<TestOrders['orders']['heldList']>[0]) =>
  (await shop.orders.heldList(page)).map(({ reference }) => reference);

test('attempts that hold their orders are listed with them, of all verdicts the oldest first, in pages', async () => {
  const first = await hold('unknown', 'first');
  await hold('processing', 'second');
  await hold('open', 'may still be paid');
  await hold('unknown', 'third');
  const fourth = await hold('processing', 'fourth');
  await shop.database.query(
    `update payment_attempts set verdict_since = verdict_since + interval '1 day' where id = $1`,
    [first],
  );

  const [oldest] = await shop.orders.heldList({ limit: 1 });
  expect(oldest).toMatchObject({
    reference: 'second',
    status: 'pending_payment',
    amount: 500,
    currency: 'EUR',
    provider: 'wallet',
    verdict: 'processing',
    verdictReason: 'it is processing',
    askCount: 1,
    closingAt: null,
  });
  if (oldest === undefined) throw new Error('none is held');
  expect(await references({ after: oldest, limit: 2 })).toEqual(['third', 'fourth']);
  expect(await references({ limit: 10 })).toEqual(['second', 'third', 'fourth', 'first']);

  await shop.orders.recordVerdict({ attemptId: fourth, verdict: 'closed', actor: 'test' });
  expect(await references({ limit: 10 })).toEqual(['second', 'third', 'first']);
});

test('it is told since when an order is fenced, and of one that is not, nothing', async () => {
  const order = await place(shop.orders);
  await openAttempt(shop.orders, order.id);
  expect(await shop.orders.closingSince(order.id)).toBeUndefined();
  await makeDue(shop.database, [order]);
  await shop.orders.expire([order.id], 'test');
  const timeline = await shop.orders.timeline(order.id);
  const fenced = timeline.find(({ type }) => type === 'order.closing');
  expect(await shop.orders.closingSince(order.id)).toEqual(fenced?.at);
  expect(await shop.orders.closingSince('01890000-0000-7000-8000-000000000000')).toBeUndefined();
});

test('a page among 20,000 held orders is read through their index', async () => {
  const ids = await placeOverdue(shop.database, 20_000, 1000);
  await shop.database.query(
    `insert into payment_attempts (
       id, order_id, provider, state, provider_attempt_id, hand_off_as, pay_by, created_at, verdict, verdict_since
     )
     select gen_random_uuid(), id, 'wallet', 'open', id::text, 'url', now(), now(),
       case n % 2 when 0 then 'unknown' else 'processing' end, now() - n * interval '1 second'
     from unnest($1::uuid[]) with ordinality as held (id, n)`,
    [ids],
  );
  await shop.database.query('analyze');
  const single = shop.another({ max: 1 });
  await single.orders.heldList({ limit: 50 });
  const { rows } = await single.database.query<{ 'QUERY PLAN': string }>(
    `explain execute attempts_held (now() - interval '1 hour', '00000000-0000-0000-0000-000000000000', 50)`,
  );
  const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
  expect(plan).not.toContain('Seq Scan');
  expect(plan.match(/Index Scan using payment_attempts_verdict/g)).toHaveLength(2);
});
