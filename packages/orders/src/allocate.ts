import type { OrderItem } from './order.ts';

/** A SKU's stock as it was locked. `onHand` is null where nobody counts it. */
export interface StockLevel {
  readonly onHand: number | null;
  readonly held: number;
}

/** What became of one order's wish for stock. */
export type Allocation =
  | { readonly outcome: 'held' }
  | { readonly outcome: 'unknown_sku'; readonly skus: readonly string[] }
  | { readonly outcome: 'out_of_stock'; readonly skus: readonly string[] };

/**
 * Gives stock to orders, first come, first served. An order gets all of its items or none, and one that does not fit
 * leaves what there is to those behind it.
 *
 * @param stock the locked levels by SKU
 * @param wishes the items of each order, in the order they came; each SKU once in an order
 * @returns an allocation for each wish, and what to add to `held` for each SKU
 */
export function allocate(
  stock: ReadonlyMap<string, StockLevel>,
  wishes: readonly (readonly OrderItem[])[],
): { readonly allocations: readonly Allocation[]; readonly holds: ReadonlyMap<string, number> } {
  const holds = new Map<string, number>();
  const available = (sku: string): number => {
    const level = stock.get(sku);
    if (level === undefined) return 0;
    return (level.onHand ?? Number.MAX_SAFE_INTEGER) - level.held - (holds.get(sku) ?? 0);
  };
  const allocations = wishes.map((items): Allocation => {
    const unknown = items.filter(({ sku }) => !stock.has(sku));
    if (unknown.length > 0) return { outcome: 'unknown_sku', skus: unknown.map(({ sku }) => sku) };
    const short = items.filter(({ sku, quantity }) => quantity > available(sku));
    if (short.length > 0) return { outcome: 'out_of_stock', skus: short.map(({ sku }) => sku) };
    for (const { sku, quantity } of items) holds.set(sku, (holds.get(sku) ?? 0) + quantity);
    return { outcome: 'held' };
  });
  return { allocations, holds };
}
