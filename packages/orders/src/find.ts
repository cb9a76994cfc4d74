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

/** A page of orders. */
export interface OrderPage {
  /** Newest first; fewer than the limit where few of those that were looked at match. */
  readonly orders: readonly Order[];
  /** What the next page is asked with; null behind the last order. */
  readonly before: string | null;
}

/** Most orders that are looked at for a page. */
const lookedAtCount = 20_000;

type Condition = readonly [name: string, condition: string, value: string | undefined];

/**
 * A statement for each combination of conditions, so that each has the plan that fits it.
 *
 * @param name begins the statement's name
 * @param rest SQL behind the conditions; its parameter is $1
 */
function findWhere(name: string, select: string, conditions: readonly Condition[], rest: string): Statement {
  const where = conditions.map(([, condition], n) => `${condition} $${n + 2}`);
  return {
    name: [name, ...conditions.map(([named]) => named)].join('_'),
    text: `
      select ${select} from orders o
      ${where.length === 0 ? '' : `where ${where.join(' and ')}`}
      order by o.id desc
      ${rest}`,
  };
}

const given = (conditions: readonly Condition[]): readonly Condition[] =>
  conditions.filter(([, , value]) => value !== undefined);

const valuesOf = (conditions: readonly Condition[]): readonly (string | undefined)[] =>
  conditions.map(([, , value]) => value);

/**
 * Lists orders, newest first.
 *
 * No index serves `status` and `channel`: each would be written with every checkout, for a list that a person asks for
 * now and then. So a page looks at 20,000 orders and no more, and says where the next one goes on. Where few match, a
 * page of a table of millions would else be a scan of all of it, beside checkouts.
 */
export async function listOrders(db: Queryable, filter: OrderFilter): Promise<OrderPage> {
  const { status, channel, reference, before, limit } = filter;
  const indexed = given([
    ['reference', 'o.reference =', reference],
    ['before', 'o.id <', before],
  ]);
  const others = given([
    ['status', 'o.status =', status],
    ['channel', 'o.channel =', channel],
  ]);
  let last: string | undefined;
  if (others.length > 0) {
    const findLast = findWhere('list_last', 'o.id', indexed, 'offset $1 limit 1');
    [{ id: last } = { id: undefined }] = await db.query<{ id: string }>(findLast, [
      lookedAtCount - 1,
      ...valuesOf(indexed),
    ]);
  }
  const all = [...indexed, ...others, ...given([['last', 'o.id >=', last]])];
  const rows = await db.query<OrderRow>(findWhere('list_orders', orderColumns, all, 'limit $1'), [
    limit,
    ...valuesOf(all),
  ]);
  const isFull = rows.length === limit;
  return { orders: rows.map(toOrder), before: (isFull ? rows.at(-1)?.id : last) ?? null };
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
