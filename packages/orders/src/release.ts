/**
 * CTEs that put the stock of some orders back on sale, in the statement that cancels them. They need a CTE of the
 * cancelled orders with its column `items`, and a CTE `clock`. Stock rows are locked in the order of their SKUs before
 * they change: without that, batches that cross each other deadlock.
 *
 * @param cancelled name of the CTE whose rows give their stock back
 */
export const releaseHolds = (cancelled: string): string => `
  released as materialized (
    select item.sku, sum(item.quantity)::bigint as quantity
    from ${cancelled}
    cross join lateral jsonb_to_recordset(${cancelled}.items) as item (sku text, quantity bigint)
    group by item.sku
  ), locked_stock as materialized (
    select sku from stock where sku in (select sku from released) order by sku for no key update
  ), unheld as (
    update stock s set held = s.held - released.quantity, updated_at = clock.at
    from released join locked_stock using (sku) cross join clock
    where s.sku = released.sku
  )`;
