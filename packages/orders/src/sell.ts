/**
 * CTEs that take the stock of paid orders off the shelf, in the statement that pays them. They need a CTE of the paid
 * orders with its columns `items` and `was_held` (whether the order held its stock until now), and a CTE `clock`. Stock
 * rows are locked in the order of their SKUs before they change.
 *
 * @param paid name of the CTE whose rows are sold
 */
export const sellItems = (paid: string): string => `
  sold as materialized (
    select
      item.sku, sum(item.quantity)::bigint as quantity,
      coalesce(sum(item.quantity) filter (where ${paid}.was_held), 0)::bigint as held
    from ${paid}
    cross join lateral jsonb_to_recordset(${paid}.items) as item (sku text, quantity bigint)
    group by item.sku
  ), locked_stock as materialized (
    select sku from stock where sku in (select sku from sold) order by sku for no key update
  ), moved as (
    update stock s
    set on_hand = s.on_hand - sold.quantity, held = s.held - sold.held, updated_at = clock.at
    from sold join locked_stock using (sku) cross join clock
    where s.sku = sold.sku
  )`;
