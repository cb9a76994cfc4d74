/**
 * What the model knows of a shop, and how it is shown. What can happen to it stands in model.ts, attempts.ts, money.ts and
 * freezes.ts.
 */

/** Everything there is. */
export interface Shop {
  readonly clock: number;
  /** Pieces in the house by SKU, held ones included; null where nobody counts them. */
  readonly stock: Readonly<Record<string, number | null>>;
  readonly orders: Readonly<Record<string, Order>>;
  readonly attempts: Readonly<Record<string, Attempt>>;
  /** By their capture, whose name begins with that of its provider: `bank c1`. */
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

export type Channel = 'web' | 'app';
export type Method = 'card' | 'transfer' | 'voucher' | 'cod';
export type Provider = 'bank' | 'wallet';

/** What holds for orders that are paid in one way. Infinity: for ever, or as often or far as wished. */
export interface Policy {
  readonly windowMs: number;
  readonly graceMs: number;
  /** How long before the deadline customers are reminded. */
  readonly remindersMs: readonly number[];
  readonly mostExtensions: number;
  readonly mostExtendedMs: number;
  readonly lateMoney: 'refund' | 'reinstate' | 'manual';
}

const minuteMs = 60_000;
const asWished = { mostExtensions: Infinity, mostExtendedMs: Infinity };

/** Between them they have everything that a policy can say. */
export const policies: Readonly<Record<Method, Policy>> = {
  card: { windowMs: 30 * minuteMs, graceMs: 0, remindersMs: [], ...asWished, lateMoney: 'refund' },
  transfer: {
    windowMs: 5 * minuteMs,
    graceMs: minuteMs,
    remindersMs: [3 * minuteMs, 55_000],
    ...asWished,
    mostExtensions: 1,
    lateMoney: 'reinstate',
  },
  voucher: {
    windowMs: minuteMs,
    graceMs: 0,
    remindersMs: [30_000],
    ...asWished,
    mostExtendedMs: 10 * minuteMs,
    lateMoney: 'manual',
  },
  cod: { windowMs: Infinity, graceMs: minuteMs, remindersMs: [minuteMs], ...asWished, lateMoney: 'refund' },
};

export interface Order {
  readonly status: 'pending_payment' | 'paid' | 'cancelled';
  readonly cancelReason: 'payment_timeout' | 'customer' | 'merchant' | null;
  readonly channel: Channel;
  readonly paymentMethod: Method;
  readonly currency: string;
  readonly items: readonly Item[];
  readonly createdAt: number;
  /** Infinity: never. */
  readonly deadlineAt: number;
  readonly graceMs: number;
  /** The next payment reminder; of a settled order, when it would have been. Null: none is left. */
  readonly remindAt: number | null;
  readonly paidAt: number | null;
  readonly cancelledAt: number | null;
  /** The fence: since when its providers are asked whether money still comes. */
  readonly closingAt: number | null;
  readonly extensionCount: number;
  readonly extendedMs: number;
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

/** A way for a customer to pay an order. Until it has ended it may bring money. */
export interface Attempt {
  readonly order: string;
  readonly provider: Provider;
  readonly state: 'opening' | 'open' | 'closed' | 'refused' | 'paid';
  readonly openedAt: number;
  readonly endedAt: number | null;
  /** What its provider said last, and since when, where that did not end it. */
  readonly verdict: 'open' | 'processing' | 'unknown' | null;
  readonly verdictSince: number | null;
}

export type ListReason = 'unverified' | 'policy' | 'orderless' | 'restated' | 'conflict' | 'refund_failed';

export interface Payment {
  /** Null: a provider took it for an order that does not exist. */
  readonly order: string | null;
  readonly amount: number;
  readonly currency: string;
  readonly outcome: 'paid' | 'duplicate' | 'late' | 'amount_mismatch' | 'orderless';
  /** Whether its provider told of it, or only the shop. */
  readonly verified: boolean;
  readonly recordedAt: number;
  /** Since when a person is to decide about it, or was, and why. */
  readonly listedAt: number | null;
  readonly listedFor: ListReason | null;
  /** What the person decided. */
  readonly resolution: 'refund' | 'accept' | 'dismiss' | null;
  /** Its way back. */
  readonly refund: Refund | null;
}

export interface Refund {
  readonly state: 'due' | 'sent' | 'confirmed' | 'failed';
  readonly actor: string;
  /** How often it was sent in vain before. */
  readonly formerCount: number;
  /** It had arrived, and its bank sent it back. */
  readonly hasComeBack: boolean;
}

export interface Freeze {
  readonly name: string;
  /** Of which orders: those that fit all that is named. */
  readonly scope: Scope;
  readonly frozenAt: number;
  readonly thawingAt: number | null;
  readonly doneAt: number | null;
}

export interface Scope {
  readonly channel?: Channel;
  readonly paymentMethod?: Method;
  readonly provider?: Provider;
}

type Hidden =
  | 'graceMs'
  | 'remindAt'
  | 'closingAt'
  | 'extensionCount'
  | 'extendedMs'
  | 'givenBackTo'
  | 'story';

/** An order as everybody is shown it. Null: never. */
interface ShownOrder extends Omit<Order, Hidden | 'channel' | 'paymentMethod' | 'deadlineAt'> {
  readonly name: string;
  readonly channel: string;
  readonly paymentMethod: string;
  readonly amount: number;
  readonly deadlineAt: number | null;
  readonly expireAt: number | null;
  readonly remainingMs: number | null;
}

/** A payment as everybody is shown it. */
interface ShownPayment extends Omit<Payment, 'refund'> {
  readonly capture: string;
  readonly refund: Pick<Refund, 'state' | 'actor'> | null;
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
  readonly payment?: ShownPayment;
  /** Of an expiry, or of reminders: what was found about each order. */
  readonly answers?: Readonly<Record<string, ExpireAnswer | RemindAnswer>>;
  /** Of a step of a thaw: when the orders expire now. */
  readonly deadlines?: Readonly<Record<string, number>>;
  readonly [detail: string]: unknown;
}

export interface ExpireAnswer {
  readonly answer: string;
  readonly latenessMs?: number;
  readonly remainingMs?: number;
}

export interface RemindAnswer {
  readonly answer: string;
  readonly remainingMs?: number;
  readonly nextMs?: number | null;
}

/** What there is afterwards, and what is answered. */
export type Step = readonly [after: Shop, answer: Answer];

/** A shop in which nothing has happened. */
export const emptyShop: Shop = {
  clock: 0,
  stock: {},
  orders: {},
  attempts: {},
  payments: {},
  freezes: [],
  kept: {},
};

/** An answer after which all is as before. */
export const unchanged = (shop: Shop, outcome: string, details: object = {}): Step => [
  shop,
  { outcome, ...details },
];

/** Changes an order. */
export function changeOrder(shop: Shop, name: string, change: Partial<Order>): Shop {
  return { ...shop, orders: { ...shop.orders, [name]: { ...orderOf(shop, name), ...change } } };
}

/** Changes an order and tells it in its story. */
export function tell(
  shop: Shop,
  name: string,
  change: Partial<Order>,
  event: Omit<Event, 'at'> & { type: string },
): Shop {
  const story = [...orderOf(shop, name).story, { at: shop.clock, ...event }];
  return changeOrder(shop, name, { ...change, story });
}

export function orderOf(shop: Shop, name: string): Order {
  const order = shop.orders[name];
  if (order === undefined) throw new Error(`there is no order ${name}`);
  return order;
}

/** What an order costs. */
export const amountOf = ({ items }: Pick<Order, 'items'>): number =>
  items.reduce((sum, { quantity, unitAmount }) => sum + quantity * unitAmount, 0);

/** From here on the order may be cancelled for time. */
export const expireAtOf = ({ deadlineAt, graceMs }: Pick<Order, 'deadlineAt' | 'graceMs'>): number =>
  deadlineAt + graceMs;

/** When the next reminder is due that lies ahead; null: there is none. */
export function nextReminder(method: Method, deadlineAt: number, clock: number): number | null {
  const ahead = policies[method].remindersMs.map((ms) => deadlineAt - ms).filter((at) => at > clock);
  return finite(Math.min(...ahead));
}

/** The orders that wait for their money. */
export const pendingOrders = (shop: Shop): [name: string, order: Order][] =>
  Object.entries(shop.orders).filter(([, { status }]) => status === 'pending_payment');

/** What pending orders hold of a SKU. */
export const heldOf = (shop: Shop, sku: string): number =>
  pendingOrders(shop)
    .flatMap(([, { items }]) => items)
    .reduce((sum, item) => sum + (item.sku === sku ? item.quantity : 0), 0);

/** The attempts of an order that may still bring money. */
export const openAttempts = (shop: Shop, order: string): [name: string, attempt: Attempt][] =>
  Object.entries(shop.attempts).filter(([, attempt]) => attempt.order === order && attempt.endedAt === null);

/** Those of the items of which there is not enough to be had. */
export const shortOf = (shop: Shop, items: readonly Item[]): readonly Item[] =>
  items.filter(({ sku, quantity }) => {
    const onHand = shop.stock[sku] ?? null;
    return onHand !== null && quantity > onHand - heldOf(shop, sku);
  });

/** Null for never. */
export const finite = (ms: number): number | null => (ms === Infinity ? null : ms);

/** Shows an order. */
export function showOrder(shop: Shop, name: string): ShownOrder {
  const order = orderOf(shop, name);
  const {
    graceMs: _,
    remindAt: _1,
    closingAt: _2,
    extensionCount: _3,
    extendedMs: _4,
    givenBackTo: _5,
    story: _6,
    ...shown
  } = order;
  const isPending = order.status === 'pending_payment';
  const leftMs = isPending ? Math.max(0, order.deadlineAt - shop.clock) : 0;
  return {
    name,
    ...shown,
    amount: amountOf(order),
    deadlineAt: finite(order.deadlineAt),
    expireAt: finite(expireAtOf(order)),
    remainingMs: order.deadlineAt === Infinity ? null : leftMs,
  };
}

/** Shows a payment. */
export function showPayment(shop: Shop, capture: string): ShownPayment {
  const { refund, ...payment } = paymentOf(shop, capture);
  if (refund === null) return { capture, ...payment, refund };
  const { state, actor } = refund;
  return { capture, ...payment, refund: { state, actor } };
}

export function paymentOf(shop: Shop, capture: string): Payment {
  const payment = shop.payments[capture];
  if (payment === undefined) throw new Error(`there is no payment ${capture}`);
  return payment;
}

/** A person is to decide about it now. */
export const isListed = ({ listedAt, resolution }: Payment): boolean =>
  listedAt !== null && resolution === null;

/** Shows a SKU's stock. */
export function showStock(shop: Shop, sku: string): object {
  const onHand = shop.stock[sku] ?? null;
  const held = heldOf(shop, sku);
  return { sku, onHand, held, available: onHand === null ? null : onHand - held };
}
