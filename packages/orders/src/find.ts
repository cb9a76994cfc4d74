import type { Queryable, Statement } from '@lapse/runtime';
import { orderColumns, toOrder, type Order, type OrderRow, type OrderStatus } from './order.ts';

const readByIds: Statement = {
  name: 'read_orders',
  text: `
    select ${orderColumns} from unnest($1::uuid[]) as wanted (id)
    cross join lateral (select * from orders where orders.id = wanted.id limit 1) as o`,
};

/**
 * Reads orders by id; those that do not exist are left out.
 *
 * One by one: of a table that was empty when the statement was planned for good, and was not analyzed since, PostgreSQL
 * would read all rows to join them with the ids. Payments, whose statements are alike, went at 560 to 850 a second on a
 * young database, now at 11,000.
 */
export async function readOrders(db: Queryable, ids: readonly string[]): Promise<Map<string, Order>> {
  const rows = await db.query<OrderRow>(readByIds, [ids]);
  return new Map(rows.map((row) => [row.id, toOrder(row)]));
}

/** Which orders to list: every given field must match. */
export interface OrderFilter {
  readonly status?: OrderStatus | undefined;
  readonly channel?: string | undefined;
  readonly reference?: string | undefined;
  /** Only orders older than this one: the last id of the page before. */
  readonly before?: string | undefined;
  /** Most orders in the page. */
  readonly limit: number;
}

/** Lists orders, newest first. */
export async function listOrders(db: Queryable, filter: OrderFilter): Promise<Order[]> {
  const conditions: [name: string, condition: string, value: string | undefined][] = [
    ['status', 'o.status =', filter.status],
    ['channel', 'o.channel =', filter.channel],
    ['reference', 'o.reference =', filter.reference],
    ['before', 'o.id <', filter.before],
  ];
  const given = conditions.filter(([, , value]) => value !== undefined);
  const where = given.map(([, condition], n) => `${condition} $${n + 2}`);
  // A statement for each combination, so that each has the plan that fits it.
  const statement: Statement = {
    name: ['list_orders', ...given.map(([name]) => name)].join('_'),
    text: `
      select ${orderColumns} from orders o
      ${where.length === 0 ? '' : `where ${where.join(' and ')}`}
      order by o.id desc
      limit $1`,
  };
  const rows = await db.query<OrderRow>(statement, [filter.limit, ...given.map(([, , value]) => value)]);
  return rows.map(toOrder);
}

/** One entry of an order's story. */
export interface OrderEvent {
  /** Orders the events of one order. */
  readonly id: number;
  readonly type: string;
  readonly at: Date;
  readonly actor: string;
  readonly data: Readonly<Record<string, unknown>>;
}

const readEvents: Statement = {
  name: 'read_events',
  text: `select seq as id, type, at, actor, data from events where order_id = $1 order by seq`,
};

/** Every event of an order, oldest first. */
export function readTimeline(db: Queryable, orderId: string): Promise<OrderEvent[]> {
  return db.query<OrderEvent>(readEvents, [orderId]);
}
