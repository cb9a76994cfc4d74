import { periodic, queryable, type Statement } from '@lapse/runtime';
import { runReference } from './program.ts';

/**
 * The database's own limit: overdue rows, 5,000 in a statement, no queue and no process in between. Written as Lapse's
 * sweeper works: what is locked is skipped; cancel, release and tell in one statement.
 */
const batchSize = 5000;

const sweep: Statement = {
  name: 'sweep',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), due as materialized (
      select id from orders
      where status = 'pending_payment' and check_at <= (select at from clock)
      order by check_at
      limit $1
      for no key update skip locked
    ), cancelled as (
      update orders o set status = 'cancelled', cancel_reason = 'payment_timeout', cancelled_at = clock.at
      from due cross join clock
      where o.id = due.id
      returning o.id, o.expire_at, o.items, clock.at
    ), released as materialized (
      select item.sku, sum(item.quantity)::bigint as quantity
      from cancelled cross join lateral jsonb_to_recordset(items) as item (sku text, quantity bigint)
      group by item.sku
    ), unheld as (
      update stock s set held = s.held - released.quantity, updated_at = clock.at
      from released cross join clock
      where s.sku = released.sku
    ), told as (
      insert into events (order_id, type, actor, at, data)
      select id, 'order.cancelled', 'reference', at, jsonb_build_object(
        'reason', 'payment_timeout', 'expireAt', expire_at,
        'latenessMs', round(extract(epoch from at - expire_at) * 1000)
      )
      from cancelled
    )
    select count(*)::int as count from cancelled`,
};

await runReference({
  // The rows say it all.
  arm: () => Promise.resolve(),
  work({ database, log }) {
    return periodic({
      name: 'sweep',
      everyMs: 10,
      log,
      async task(stopped) {
        while (!stopped.aborted) {
          const [swept] = await queryable(database).query<{ count: number }>(sweep, [batchSize]);
          if ((swept?.count ?? 0) < batchSize) return;
        }
      },
    });
  },
});
