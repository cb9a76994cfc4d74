import { sqlState, transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';

/** What there is of a SKU. */
export interface Stock {
  readonly sku: string;
  /** Pieces in the house, held ones included. Null where nobody counts them: then everything is available. */
  readonly onHand: number | null;
  /** Pieces that pending orders hold. */
  readonly held: number;
  /** onHand − held, what can still be sold. Null where nobody counts. */
  readonly available: number | null;
}

/** What became of a change. `below_held`: it would leave less than pending orders hold. */
export type StockAnswer =
  | { readonly outcome: 'changed'; readonly stock: Stock }
  | { readonly outcome: 'below_held' | 'out_of_range' | 'not_counted' }
  | { readonly outcome: 'sku_not_found' };

const stockColumns = `s.sku, s.on_hand as "onHand", s.held, s.on_hand - s.held as available`;

const setOnHand: Statement = {
  name: 'stock_set',
  text: `
    insert into stock as s (sku, on_hand, updated_at)
    values ($1, $2, date_trunc('milliseconds', clock_timestamp()))
    on conflict (sku) do update set on_hand = excluded.on_hand, updated_at = excluded.updated_at
    returning ${stockColumns}`,
};

const adjustOnHand: Statement = {
  name: 'stock_adjust',
  text: `
    update stock s
    set on_hand = s.on_hand + $2, updated_at = date_trunc('milliseconds', clock_timestamp())
    where s.sku = $1
    returning ${stockColumns}`,
};

/** Sets what there is of a SKU, new or known. Null: it is not counted. */
export function setStock(db: Database, sku: string, onHand: number | null): Promise<StockAnswer> {
  return change(db, setOnHand, [sku, onHand]);
}

/** Adds to what there is of a SKU, or takes away. */
export async function adjustStock(db: Database, sku: string, by: number): Promise<StockAnswer> {
  const answer = await change(db, adjustOnHand, [sku, by]);
  return answer.outcome === 'changed' && answer.stock.onHand === null ? { outcome: 'not_counted' } : answer;
}

const checkViolation = '23514';
const outOfRange = '22003';

async function change(db: Database, statement: Statement, values: readonly unknown[]): Promise<StockAnswer> {
  try {
    const [stock] = await transaction(db, (tx) => tx.query<Stock>(statement, values));
    return stock === undefined ? { outcome: 'sku_not_found' } : { outcome: 'changed', stock };
  } catch (error) {
    if (sqlState(error) === outOfRange) return { outcome: 'out_of_range' };
    if (sqlState(error) !== checkViolation) throw error;
    return { outcome: violated(error) === 'stock_covers_held' ? 'below_held' : 'out_of_range' };
  }
}

/** The constraint that refused a row. */
function violated(error: unknown): unknown {
  return error instanceof Error && 'constraint' in error ? error.constraint : undefined;
}

const readStockPage: Statement = {
  name: 'stock_page',
  text: `
    select ${stockColumns} from stock s
    where s.sku > $1
    order by s.sku
    limit $2`,
};

/** A page of the stock, in the order of the SKUs, behind `after`. */
export function listStock(db: Queryable, page: { after: string; limit: number }): Promise<Stock[]> {
  return db.query<Stock>(readStockPage, [page.after, page.limit]);
}

const readSku: Statement = {
  name: 'stock_read',
  text: `select ${stockColumns} from stock s where s.sku = $1`,
};

/** What there is of one SKU; undefined where it is unknown. */
export async function readStock(db: Queryable, sku: string): Promise<Stock | undefined> {
  const [stock] = await db.query<Stock>(readSku, [sku]);
  return stock;
}
