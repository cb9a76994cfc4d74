import type { Database } from '@lapse/runtime';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { aPayment, openTestOrders, placeMany, type TestOrders, type TestProcess } from './testing.ts';

let shop: TestOrders;
/** One connection, on which the statements under test are prepared. */
let single: TestProcess;
let dueIds: string[];

beforeAll(async () => {
  shop = await openTestOrders({ partitionCount: 8 });
  single = shop.another({ max: 1 });
  await shop.orders.setStock('a', null);
  // 200,000 settled, 100,000 pending, 5,000 of them overdue.
  // A part at a time: a statement has 10 s, also on a busy machine.
  for (let first = 1; first <= 300_000; first += 50_000) {
    await shop.database.query(
      `insert into orders (
        id, partition, reference, channel, payment_method, status, cancel_reason, currency, amount, items, metadata,
        created_at, deadline_at, expire_at, check_at, cancelled_at
      )
      select
        gen_random_uuid(), n % 8, null, 'web', 'card', status, case status when 'cancelled' then 'customer' end, 'EUR',
        500, '[{"sku": "a", "quantity": 1, "unitAmount": 500}]', '{}', created_at, deadline_at, deadline_at, deadline_at,
        case status when 'cancelled' then created_at end
      from generate_series($1::int, $1::int + 49999) as n
      cross join lateral (select case when n % 3 = 0 then 'pending_payment' else 'cancelled' end as status) as s
      cross join lateral (select now() + (n - 15000) * interval '10 ms' as deadline_at) as d
      cross join lateral (select deadline_at - interval '2 hours' as created_at) as c`,
      [first],
    );
  }
  // Every eighth is reminded.
  await shop.database.query(`
    update orders set reminders = '{300000}', remind_at = deadline_at - interval '5 minutes'
    where status = 'pending_payment' and partition = 0`);
  await shop.database.query(`
    insert into idempotency_keys (scope, key, body_hash, order_id, outcome, created_at)
    select 'test', n::text, '', gen_random_uuid(), 'placed', now() - interval '23 hours' + n * interval '10 ms'
    from generate_series(1, 100000) as n`);
  await shop.database.query(`
    update stock set held = (select count(*) from orders where status = 'pending_payment')`);
  await shop.database.query('analyze');
  const { rows } = await shop.database.query<{ id: string }>(
    `select id from orders where status = 'pending_payment' order by check_at limit 500`,
  );
  dueIds = rows.map(({ id }) => id);
}, 120_000);
afterAll(() => shop.close());

const unknownId = '01890000-0000-7000-8000-000000000000';
const noId = '00000000-0000-0000-0000-000000000000';

interface Plan {
  readonly 'Node Type': string;
  readonly 'Relation Name'?: string;
  readonly 'Index Name'?: string;
  readonly 'Index Cond'?: string;
  readonly 'Scan Direction'?: string;
  readonly Plans?: readonly Plan[];
}

/** Every node of the plan of a statement that `single` has prepared, the way to it first. */
async function planOf(database: Database, execute: string, cache: string): Promise<Plan[][]> {
  await database.query(`set plan_cache_mode = ${cache}`);
  const { rows } = await database.query<{ 'QUERY PLAN': readonly { Plan: Plan }[] }>(
    `explain (format json) ${execute}`,
  );
  const paths: Plan[][] = [];
  const walk = (plan: Plan, above: readonly Plan[]): void => {
    const path = [...above, plan];
    paths.push(path);
    for (const below of plan.Plans ?? []) walk(below, path);
  };
  for (const { Plan: plan } of rows[0]?.['QUERY PLAN'] ?? []) walk(plan, []);
  return paths;
}

const last = (path: readonly Plan[]): Plan | undefined => path.at(-1);
const seqScans = (paths: readonly Plan[][], relation: string) =>
  paths.filter(
    (path) => last(path)?.['Node Type'] === 'Seq Scan' && last(path)?.['Relation Name'] === relation,
  );
const usersOf = (paths: readonly Plan[][], index: string) =>
  paths.filter((path) => last(path)?.['Index Name'] === index);
/** How the rows come that a sweep locks. */
const sweptScan = (paths: readonly Plan[][]) =>
  usersOf(paths, 'orders_due').find((path) => path.some((plan) => plan['Node Type'] === 'LockRows'));
const typesOf = (path: readonly Plan[] | undefined) => path?.map((plan) => plan['Node Type']);

test('a list whose filter hardly anything matches is read in pages of which each looks at a part', async () => {
  let before: string | undefined;
  let pageCount = 0;
  do {
    const page = await shop.orders.list({ channel: 'no such channel', before, limit: 10 });
    expect(page.orders).toEqual([]);
    before = page.before ?? undefined;
    pageCount += 1;
  } while (before !== undefined);
  // 300,000 orders, 20,000 a page, and one that finds that nothing is left.
  expect(pageCount).toBe(16);
});

describe.each(['force_custom_plan', 'force_generic_plan'])('with 100,000 pending orders, %s:', (cache) => {
  test('the sweep reads overdue rows in the order of their index and sorts nothing', async () => {
    await single.orders.sweep(1, 'test');
    const paths = await planOf(single.database, `execute expire_sweep (500, 'test', 1000, true)`, cache);
    expect(seqScans(paths, 'orders')).toEqual([]);
    const scan = sweptScan(paths);
    expect(last(scan ?? [])).toMatchObject({
      'Node Type': 'Index Scan',
      'Index Cond': expect.stringContaining('check_at'),
    });
    // Nothing sorts between the scan and the limit. The Result asks once whether everything is frozen.
    expect(typesOf(scan)?.slice(-4)).toEqual(['Limit', 'LockRows', 'Result', 'Index Scan']);
    expect(scan?.at(-2)).toHaveProperty('One-Time Filter');
  });

  test('a large sweep does so too', async () => {
    await single.orders.sweep(1, 'test');
    const paths = await planOf(single.database, `execute expire_sweep (5000, 'test', 1000, true)`, cache);
    expect(seqScans(paths, 'orders')).toEqual([]);
    expect(typesOf(sweptScan(paths))?.slice(-4)).toEqual(['Limit', 'LockRows', 'Result', 'Index Scan']);
  });

  test('the sweep of reminders reads those that are due in the order of their index and sorts nothing', async () => {
    await single.orders.sweepReminders(1, 'test');
    const paths = await planOf(single.database, `execute remind_sweep (500, 'test')`, cache);
    expect(seqScans(paths, 'orders')).toEqual([]);
    const [scan] = usersOf(paths, 'orders_remind');
    expect(last(scan ?? [])?.['Index Cond']).toContain('remind_at');
    // The Result asks once whether everything is frozen, and whether another process sweeps.
    expect(typesOf(scan)?.slice(-4)).toEqual(['Limit', 'LockRows', 'Result', 'Index Scan']);
  });

  test.each([1, 500])('looking at the reminders of %i orders finds them by their ids', async (count) => {
    await single.orders.remind([], 'test');
    const ids = `'{${dueIds.slice(0, count).join(',')}}'`;
    const paths = await planOf(single.database, `execute remind_by_id (${ids}, 'test')`, cache);
    expect(seqScans(paths, 'orders')).toEqual([]);
  });

  test.each([1, 500])('expiring %i fired orders finds them by their ids', async (count) => {
    await single.orders.expire([], 'test');
    await single.orders.expire([unknownId], 'test');
    const ids = `'{${dueIds.slice(0, count).join(',')}}'`;
    const paths = await planOf(single.database, `execute expire_by_id (${ids}, 'test', 1000, true)`, cache);
    expect(seqScans(paths, 'orders')).toEqual([]);
    expect(usersOf(paths, 'orders_pkey').length).toBeGreaterThan(0);
  });

  test.each(['expire_sweep (500', `expire_by_id ('{${unknownId}}'`])(
    'before %s … cancels, it looks for a backlog in the index, no further than the bound',
    async (execute) => {
      await single.orders.sweep(1, 'test');
      await single.orders.expire([unknownId], 'test');
      const paths = await planOf(single.database, `execute ${execute}, 'test', 1000, true)`, cache);
      const look = usersOf(paths, 'orders_due').find((path) => last(path)?.['Scan Direction'] === 'Backward');
      expect(last(look ?? [])?.['Index Cond']).toContain('check_at <=');
      expect(typesOf(look)?.slice(-2)).toEqual(['Limit', 'Index Only Scan']);
    },
  );

  test('the backlog reads overdue rows only, in the order of their index and no more than its bound', async () => {
    await single.orders.backlog();
    const paths = await planOf(single.database, 'execute backlog', cache);
    expect(seqScans(paths, 'orders')).toEqual([]);
    const [scan] = usersOf(paths, 'orders_due');
    expect(last(scan ?? [])).toMatchObject({ 'Index Cond': expect.stringContaining('check_at') });
    expect(typesOf(scan)?.slice(-2)).toEqual(['Limit', 'Index Scan']);
  });

  test('old orders are read in the order of their ids, and removed by them', async () => {
    // A few of these random ids are less than any that is drawn today.
    const removal = await single.orders.removeSettled({ olderThanMs: 1000, after: null, limit: 10 });
    expect(removal).toMatchObject({ state: 'done', isAll: false });
    const lock = await planOf(single.database, `execute retention_lock_page (1000, '${noId}', 500)`, cache);
    expect(seqScans(lock, 'orders')).toEqual([]);
    const [scan] = usersOf(lock, 'orders_pkey');
    expect(typesOf(scan)?.slice(-3)).toEqual(['Limit', 'Result', 'Index Only Scan']);
    const ids = `'{${dueIds.join(',')}}'`;
    const remove = await planOf(single.database, `execute retention_remove (${ids}, 1000)`, cache);
    expect(seqScans(remove, 'orders')).toEqual([]);
  });

  test('a purge reads no more than its blocks', async () => {
    await single.orders.purgeIdempotencyKeys({ from: 0, count: 1 });
    const paths = await planOf(single.database, "execute purge_idempotency_keys ('(0,0)', '(128,0)')", cache);
    expect(seqScans(paths, 'idempotency_keys')).toEqual([]);
    expect(paths.some((path) => last(path)?.['Node Type'] === 'Tid Range Scan')).toBe(true);
  });

  test('the pending partitions are found without reading the pending orders', async () => {
    await single.orders.pendingPartitions();
    const paths = await planOf(single.database, 'execute pending_partitions', cache);
    expect(seqScans(paths, 'orders')).toEqual([]);
    expect(usersOf(paths, 'orders_pending_partition').length).toBeGreaterThan(0);
  });
});

test('a table that grows from nothing is not read as a whole, though nobody has analyzed it', async () => {
  const young = await openTestOrders();
  try {
    await young.orders.setStock('a', null);
    const orderCount = 2400;
    for (let n = 0; n < orderCount; n += 100) {
      const orders = await placeMany(young.orders, 100);
      await Promise.all(
        orders.map((order) =>
          young.orders.pay(
            aPayment(order, { idempotency: { scope: 'test', key: order.id, bodyHash: Buffer.of(1) } }),
          ),
        ),
      );
    }
    // What a session counted is told when it ends.
    await young.database.end();
    const { rows } = await young.another().database.query<{ table: string; read: number }>(
      `select relname as table, seq_tup_read as read from pg_stat_user_tables
       where relname in ('orders', 'payments', 'idempotency_keys')`,
    );
    // Some are read in the first batches, where that is the fastest way. Read as a whole in each: 30,000 and more.
    for (const { table, read } of rows)
      expect({ table, most: Math.max(read, 5000) }).toEqual({ table, most: 5000 });
  } finally {
    await young.close();
  }
});

test('the sweeper empties a backlog of 5,000', async () => {
  const counts: number[] = [];
  for (let round = await shop.orders.sweep(1000, 'test'); round.size > 0;) {
    counts.push(round.size);
    round = await shop.orders.sweep(1000, 'test');
  }
  expect(counts.reduce((sum, count) => sum + count)).toBeGreaterThanOrEqual(4900);
  expect(await shop.orders.backlog()).toMatchObject({ overdueCount: expect.any(Number) });
});
