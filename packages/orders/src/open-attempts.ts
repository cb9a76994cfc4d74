/** How long before the deadline a provider is asked by itself, ms: a lost notice of a payment is noticed in time. */
const askBeforeMs = 60_000;

/**
 * SQL: when the provider of an open attempt of `o` is asked by itself; null where the deadline is near. Where there is none
 * it is asked once a day.
 */
export const nextAsk = (now: string): string => `case
        when o.expire_at = 'infinity' then ${now} + interval '1 day'
        when o.expire_at - interval '${askBeforeMs} ms' > ${now}
          then o.expire_at - interval '${askBeforeMs} ms'
      end`;

/**
 * CTE that has the attempts of settled orders closed by the workers: nobody shall pay again. It needs a CTE of the orders
 * with its columns `id` and `open_attempt_count`, and a CTE `clock`.
 *
 * @param settled name of the CTE whose rows were settled
 */
export const closeAttempts = (settled: string): string => `
  superseded as (
    update payment_attempts a set ask_at = clock.at
    from ${settled} cross join clock
    where ${settled}.open_attempt_count > 0 and a.order_id = ${settled}.id and a.ended_at is null
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
