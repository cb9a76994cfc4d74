/** What the model knows of a shop, and how it is shown. What can happen to it stands in model.ts. */

/** Everything there is. */
export interface Shop {
  readonly clock: number;
  /** Pieces in the house by SKU, held ones included; null where nobody counts them. */
  readonly stock: Readonly<Record<string, number | null>>;
  readonly orders: Readonly<Record<string, Order>>;
  /** By the provider's name of the capture. */
  readonly payments: Readonly<Record<string, Payment>>;
  readonly freezes: readonly Freeze[];
  /** What requests with an idempotency key were answered, by route and key. */
  readonly kept: Readonly<Record<string, KeptAnswer>>;
}

export interface Item {
  readonly sku: string;
  readonly quantity: number;
  readonly unitAmount: number;
}

export interface Order {
  readonly status: 'pending_payment' | 'paid' | 'cancelled';
  readonly cancelReason: 'payment_timeout' | 'customer' | 'merchant' | null;
  readonly currency: string;
  readonly items: readonly Item[];
  readonly createdAt: number;
  readonly deadlineAt: number;
  readonly paidAt: number | null;
  readonly cancelledAt: number | null;
  /** Frozen time up to here has been added to the deadline. */
  readonly givenBackTo: number;
  /** Its events, oldest first. */
  readonly story: readonly Event[];
}

export interface Event {
  readonly type: string;
  readonly at: number;
  readonly [detail: string]: unknown;
}

export interface Payment {
  readonly order: string;
  readonly amount: number;
  readonly currency: string;
  /** Whatever did not pay its order waits on the work list. */
  readonly outcome: 'paid' | 'duplicate' | 'late' | 'amount_mismatch';
  readonly recordedAt: number;
}

export interface Freeze {
  readonly name: string;
  readonly frozenAt: number;
  readonly thawingAt: number | null;
  readonly doneAt: number | null;
}

/** An order as everybody is shown it. */
interface ShownOrder extends Omit<Order, 'givenBackTo' | 'story'> {
  readonly name: string;
  readonly amount: number;
  readonly remainingMs: number;
}

export interface KeptAnswer {
  readonly body: string;
  readonly order: string;
  readonly outcome: string;
  readonly at: number;
}

/** What somebody is told: the outcome, and what belongs to it. */
export interface Answer {
  readonly outcome: string;
  readonly order?: ShownOrder;
  /** Of an expiry: what was found about each order. */
  readonly answers?: Readonly<Record<string, ExpireAnswer>>;
  /** Of a step of a thaw: the new deadlines. */
  readonly deadlines?: Readonly<Record<string, number>>;
  readonly [detail: string]: unknown;
}

export interface ExpireAnswer {
  readonly answer: string;
  readonly latenessMs?: number;
  readonly remainingMs?: number;
}

/** What there is afterwards, and what is answered. */
export type Step = readonly [after: Shop, answer: Answer];

/** A shop in which nothing has happened. */
export const emptyShop: Shop = { clock: 0, stock: {}, orders: {}, payments: {}, freezes: [], kept: {} };

/** What an order costs. */
export const amountOf = ({ items }: Pick<Order, 'items'>): number =>
  items.reduce((sum, { quantity, unitAmount }) => sum + quantity * unitAmount, 0);

/** What pending orders hold of a SKU. */
export const heldOf = (shop: Shop, sku: string): number =>
  Object.values(shop.orders)
    .filter(({ status }) => status === 'pending_payment')
    .flatMap(({ items }) => items)
    .reduce((sum, item) => sum + (item.sku === sku ? item.quantity : 0), 0);

/** Shows an order. */
export function showOrder(shop: Shop, name: string): ShownOrder {
  const order = orderOf(shop, name);
  const { givenBackTo: _, story: __, ...shown } = order;
  const isPending = order.status === 'pending_payment';
  const remainingMs = isPending ? Math.max(0, order.deadlineAt - shop.clock) : 0;
  return { name, ...shown, amount: amountOf(order), remainingMs };
}

/** Shows a SKU's stock. */
export function showStock(shop: Shop, sku: string): object {
  const onHand = shop.stock[sku] ?? null;
  const held = heldOf(shop, sku);
  return { sku, onHand, held, available: onHand === null ? null : onHand - held };
}

export function orderOf(shop: Shop, name: string): Order {
  const order = shop.orders[name];
  if (order === undefined) throw new Error(`there is no order ${name}`);
  return order;
}
