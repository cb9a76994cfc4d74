/** How long before the deadline a provider is asked by itself, ms: a lost notice of a payment is noticed in time. */
const askBeforeMs = 60_000;

/**
 * SQL: when the provider of an open attempt of an order is asked by itself; null where the deadline is near. Where it is far
 * away, or there is none, it is asked once a day: its page may be gone, and the notice of that lost.
 *
 * @param expireAt SQL: when the order expires
 */
export const nextAsk = (now: string, expireAt = 'o.expire_at'): string => `case
        when ${expireAt} - interval '${askBeforeMs} ms' > ${now}
          then least(${expireAt} - interval '${askBeforeMs} ms', ${now} + interval '1 day')
      end`;

/**
 * CTE that has the providers of open attempts asked again about orders whose time was over, or nearly, and goes on. It needs a
 * CTE of the orders with its columns `id`, `expire_at` and `open_attempt_count`.
 *
 * @param moved name of the CTE whose rows have a new deadline
 */
export const askAgain = (moved: string): string => `
  to_ask_again as materialized (
    select a.id, ${nextAsk('clock_timestamp()', `${moved}.expire_at`)} as ask_at
    from ${moved}
    -- One by one, see readOrders.
    cross join lateral (
      select * from payment_attempts a
      where a.order_id = ${moved}.id and a.ended_at is null and a.ask_at is null
      order by a.id
      limit 100
      for no key update
    ) as a
    where ${moved}.open_attempt_count > 0
  ), asked_again as (
    update payment_attempts a set ask_at = to_ask_again.ask_at from to_ask_again where a.id = to_ask_again.id
  )`;

/**
 * CTE that has the attempts of settled orders closed by the workers: nobody shall pay again. It needs a CTE of the orders
 * with its columns `id` and `open_attempt_count`, and a CTE `clock`.
 *
 * @param settled name of the CTE whose rows were settled
 */
export const closeAttempts = (settled: string): string => `
  superseded as materialized (
    select a.id from ${settled} join payment_attempts a on a.order_id = ${settled}.id
    where ${settled}.open_attempt_count > 0 and a.ended_at is null
    order by a.id
    for no key update of a
  ), closed_soon as (
    update payment_attempts a set ask_at = clock.at
    from superseded cross join clock
    where a.id = superseded.id and a.ended_at is null
  )`;

/**
 * CTE that takes attempts that have ended off their orders' counts. Where none is left nobody waits for a provider any
 * more: the order's own time decides again, and clears the fence if it is not over. It needs a CTE `clock`, and has the
 * columns `id` and `is_due`: whether the order may be cancelled now.
 *
 * @param ended SQL of a table with a row for each attempt that was open until now, and its column `order_id`
 */
export const uncountAttempts = (ended: string): string => `
  counted as (
    update orders o set
      open_attempt_count = o.open_attempt_count - n.count,
      closing_at = case when o.open_attempt_count > n.count or o.expire_at <= clock.at then o.closing_at end,
      check_at = case
        when o.status <> 'pending_payment' or o.open_attempt_count > n.count then o.check_at
        else greatest(o.expire_at, clock.at)
      end
    from (select order_id, count(*) as count from ${ended} group by order_id) as n
    cross join clock
    where o.id = n.order_id
    returning o.id, o.status = 'pending_payment' and o.open_attempt_count = 0 and o.expire_at <= clock.at as is_due
  )`;
