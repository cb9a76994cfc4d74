/**
 * What Lapse promises about orders, stock and money, as a pure state machine: one value for everything there is, and
 * one function for each thing that can be done, which answers what becomes of it. Nobody waits, nothing is lost, two
 * things never happen at once: what the database does under load is right when it could have happened here, in some
 * order.
 *
 * Written from the specification, to be read beside it, and simple where the implementation must be quick: nothing is
 * counted that can be summed up. The tests beside it hold the implementation to it.
 *
 * Instants and durations are milliseconds; the clock begins at 0. Orders, captures and freezes have names. What is not
 * here: the brake, payment attempts, refunds, policies.
 */
import {
  amountOf,
  heldOf,
  orderOf,
  showOrder,
  showStock,
  type Answer,
  type Event,
  type ExpireAnswer,
  type Freeze,
  type Item,
  type KeptAnswer,
  type Order,
  type Payment,
  type Shop,
  type Step,
} from './shop.ts';

const dayMs = 24 * 60 * 60 * 1000;
const keyLifeMs = dayMs;
const farthestDeadlineMs = 90 * dayMs;

const unchanged = (shop: Shop, outcome: string, details: object = {}): Step => [
  shop,
  { outcome, ...details },
];

// Reading

/** Changes an order and tells it in its story. */
function tell(
  shop: Shop,
  name: string,
  change: Partial<Order>,
  event: Omit<Event, 'at'> & { type: string },
): Shop {
  const order = orderOf(shop, name);
  const story = [...order.story, { at: shop.clock, ...event }];
  return { ...shop, orders: { ...shop.orders, [name]: { ...order, ...change, story } } };
}

// Time

/** Time passes. By itself it changes nothing. */
export const pass = (shop: Shop, ms: number): Step => [
  { ...shop, clock: shop.clock + ms },
  { outcome: 'passed' },
];

// Idempotency keys

/** A client's promise that two requests are the same one. */
export interface Key {
  readonly key: string;
  /** What the request says; the same key with another body is a mistake. */
  readonly body: string;
}

/** Handles a request once: only success, an answer that shows an order, is kept for 24 hours and told again. */
function once(
  shop: Shop,
  name: string,
  key: Key | undefined,
  handle: () => Step,
  again: (kept: KeptAnswer) => Answer,
): Step {
  if (key === undefined) return handle();
  const kept = shop.kept[name];
  if (kept !== undefined && kept.at > shop.clock - keyLifeMs)
    return kept.body === key.body ? [shop, again(kept)] : unchanged(shop, 'idempotency_key_reused');
  const [after, answer] = handle();
  if (answer.order === undefined) return [after, answer];
  const { outcome, order } = answer;
  const keep: KeptAnswer = { body: key.body, order: order.name, outcome, at: shop.clock };
  return [{ ...after, kept: { ...after.kept, [name]: keep } }, answer];
}

/** Keys are forgotten after 24 hours; the answer counts them. */
export function purgeKeys(shop: Shop): Step {
  const all = Object.entries(shop.kept);
  const young = all.filter(([, { at }]) => at > shop.clock - keyLifeMs);
  return [
    { ...shop, kept: Object.fromEntries(young) },
    { outcome: 'purged', count: all.length - young.length },
  ];
}

// Orders

/** Places an order when all of its items can be held, else holds nothing. */
export function checkout(
  shop: Shop,
  request: {
    name: string;
    currency: string;
    items: readonly Item[];
    windowMs: number;
    key?: Key | undefined;
  },
): Step {
  const { name, currency, items, windowMs, key } = request;
  return once(
    shop,
    `checkout ${key?.key}`,
    key,
    () => {
      const unknown = items.filter(({ sku }) => !(sku in shop.stock)).map(({ sku }) => sku);
      if (unknown.length > 0) return unchanged(shop, 'unknown_sku', { skus: unknown });
      const short = items.filter(({ sku, quantity }) => {
        const onHand = shop.stock[sku] ?? null;
        return onHand !== null && quantity > onHand - heldOf(shop, sku);
      });
      if (short.length > 0) return unchanged(shop, 'out_of_stock', { skus: short.map(({ sku }) => sku) });
      const deadlineAt = shop.clock + windowMs;
      const order: Order = {
        status: 'pending_payment',
        cancelReason: null,
        currency,
        items,
        createdAt: shop.clock,
        deadlineAt,
        paidAt: null,
        cancelledAt: null,
        givenBackTo: shop.clock,
        story: [{ type: 'order.placed', at: shop.clock, deadlineAt }],
      };
      const after = { ...shop, orders: { ...shop.orders, [name]: order } };
      return [after, { outcome: 'placed', replayed: false, order: showOrder(after, name) }];
    },
    (kept) => ({ outcome: 'placed', replayed: true, order: showOrder(shop, kept.order) }),
  );
}

/**
 * Money for an order. A capture counts once. The right amount pays a pending order, however late it is, and its stock
 * is sold; all other money is recorded, and waits on the work list.
 */
export function pay(
  shop: Shop,
  request: { order: string; capture: string; amount: number; currency: string; key?: Key | undefined },
): Step {
  const { order: name, capture, amount, currency, key } = request;
  const answer = (after: Shop, outcome: string) => ({
    outcome,
    order: showOrder(after, name),
    payment: { capture, ...after.payments[capture] },
  });
  return once(
    shop,
    `pay ${key?.key}`,
    key,
    () => {
      const order = shop.orders[name];
      if (order === undefined) return unchanged(shop, 'order_not_found');
      const known = shop.payments[capture];
      if (known !== undefined && known.order !== name) return unchanged(shop, 'payment_conflict');
      if (known !== undefined) return [shop, answer(shop, 'already_recorded')];

      const outcome = whatMoneyDoes(order, amount, currency);
      const payment: Payment = { order: name, amount, currency, outcome, recordedAt: shop.clock };
      const recorded = { ...shop, payments: { ...shop.payments, [capture]: payment } };
      if (outcome !== 'paid') {
        const listed = tell(recorded, name, {}, { type: 'payment.listed', capture, outcome });
        return [listed, answer(listed, outcome)];
      }
      const change = { status: 'paid', paidAt: shop.clock } as const;
      const paid = tell(recorded, name, change, { type: 'order.paid', capture, outcome });
      const sold = { ...paid, stock: withoutItems(paid.stock, order.items) };
      return [sold, answer(sold, outcome)];
    },
    ({ outcome }) => answer(shop, outcome),
  );
}

function whatMoneyDoes(order: Order, amount: number, currency: string): Payment['outcome'] {
  if (order.status === 'cancelled') return 'late';
  if (order.status === 'paid') return 'duplicate';
  return amount === amountOf(order) && currency === order.currency ? 'paid' : 'amount_mismatch';
}

/** Stock that nobody counts stays uncounted. */
function withoutItems(stock: Shop['stock'], items: readonly Item[]): Shop['stock'] {
  const left = items.map(({ sku, quantity }) => {
    const onHand = stock[sku] ?? null;
    return [sku, onHand === null ? null : onHand - quantity] as const;
  });
  return { ...stock, ...Object.fromEntries(left) };
}

/** Somebody cancels. Freezes do not hold it; a second time changes nothing. */
export function cancel(shop: Shop, name: string, reason: 'customer' | 'merchant'): Step {
  const order = shop.orders[name];
  if (order === undefined) return unchanged(shop, 'order_not_found');
  if (order.status !== 'pending_payment') {
    const outcome = order.status === 'paid' ? 'already_paid' : 'already_cancelled';
    return unchanged(shop, outcome, { order: showOrder(shop, name) });
  }
  const change = { status: 'cancelled', cancelReason: reason, cancelledAt: shop.clock } as const;
  const after = tell(shop, name, change, { type: 'order.cancelled', reason });
  return [after, { outcome: 'cancelled', order: showOrder(after, name) }];
}

/** More time to pay. The new deadline lies behind the old one and behind now, and at most 90 days ahead. */
export function extend(shop: Shop, name: string, to: { byMs: number } | { deadlineAt: number }): Step {
  const order = shop.orders[name];
  if (order === undefined) return unchanged(shop, 'order_not_found');
  if (order.status !== 'pending_payment')
    return unchanged(shop, 'not_pending', { order: showOrder(shop, name) });
  const deadlineAt = 'byMs' in to ? order.deadlineAt + to.byMs : to.deadlineAt;
  const isLater = deadlineAt > order.deadlineAt && deadlineAt > shop.clock;
  if (!isLater || deadlineAt > shop.clock + farthestDeadlineMs)
    return unchanged(shop, 'out_of_range', { order: showOrder(shop, name) });
  const event = { type: 'order.extended', from: order.deadlineAt, to: deadlineAt };
  const after = tell(shop, name, { deadlineAt }, event);
  return [after, { outcome: 'extended', order: showOrder(after, name) }];
}

// Time runs out

/** Cancels those of the orders that are pending, due and not frozen; an answer for each. */
export function expire(shop: Shop, names: readonly string[]): Step {
  const answers: Record<string, ExpireAnswer> = {};
  let after = shop;
  for (const name of new Set(names)) [after, answers[name]] = expireOne(after, name);
  return [after, { outcome: 'judged', answers }];
}

function expireOne(shop: Shop, name: string): [Shop, ExpireAnswer] {
  const order = shop.orders[name];
  if (order === undefined) return [shop, { answer: 'unknown' }];
  if (order.status !== 'pending_payment') return [shop, { answer: 'settled' }];
  if (isFrozen(shop, order)) return [shop, { answer: 'frozen' }];
  const latenessMs = shop.clock - order.deadlineAt;
  if (latenessMs < 0) return [shop, { answer: 'not_due', remainingMs: -latenessMs }];
  const reason = 'payment_timeout';
  const change = { status: 'cancelled', cancelReason: reason, cancelledAt: shop.clock } as const;
  const event = { type: 'order.cancelled', reason, expireAt: order.deadlineAt, latenessMs };
  return [tell(shop, name, change, event), { answer: 'cancelled', latenessMs }];
}

/**
 * Expires up to `limit` orders that are overdue, those that wait longest first.
 *
 * @param ties who goes first among those that wait equally long
 */
export function sweep(shop: Shop, limit: number, ties: readonly string[]): Step {
  const overdue = pendingOrders(shop).filter(
    ([, order]) => !isFrozen(shop, order) && order.deadlineAt <= shop.clock,
  );
  return expire(shop, firstDue(overdue, limit, ties));
}

const pendingOrders = (shop: Shop) =>
  Object.entries(shop.orders).filter(([, { status }]) => status === 'pending_payment');

const firstDue = (orders: readonly [string, Order][], limit: number, ties: readonly string[]) =>
  orders
    .toSorted(([a, { deadlineAt: dueA }], [b, { deadlineAt: dueB }]) => {
      return dueA - dueB || Number(ties.includes(b)) - Number(ties.includes(a));
    })
    .slice(0, limit)
    .map(([name]) => name);

// Freezes

/** The clock of every pending order stands still. */
export function freeze(shop: Shop, name: string): Step {
  const freezes = [...shop.freezes, { name, frozenAt: shop.clock, thawingAt: null, doneAt: null }];
  return [{ ...shop, freezes }, { outcome: 'frozen' }];
}

/** Lets the clock go on. What stood still is held until its deadline was moved. */
export function thaw(shop: Shop, name: string): Step {
  if (!shop.freezes.some((each) => each.name === name && each.thawingAt === null))
    return unchanged(shop, 'nothing_to_thaw');
  return [changeFreeze(shop, name, { thawingAt: shop.clock }), { outcome: 'thawing' }];
}

const changeFreeze = (shop: Shop, name: string, change: Partial<Freeze>): Shop => ({
  ...shop,
  freezes: shop.freezes.map((each) => (each.name === name ? { ...each, ...change } : each)),
});

/** An order is held by a freeze until the thaw has moved it, and by a thaw only if it was there before. */
const isFrozen = (shop: Shop, order: Order): boolean =>
  shop.freezes.some(
    ({ thawingAt, doneAt }) => thawingAt === null || (doneAt === null && order.givenBackTo < thawingAt),
  );

/**
 * The next step of the thaw that began first: up to `limit` orders get back the time they stood frozen; when there
 * is none left, the freeze is done.
 *
 * @param ties who goes first among those that are due at the same time
 */
export function thawStep(shop: Shop, limit: number, ties: readonly string[]): Step {
  const thawing = shop.freezes
    .filter(({ thawingAt, doneAt }) => thawingAt !== null && doneAt === null)
    .toSorted((a, b) => (a.thawingAt ?? 0) - (b.thawingAt ?? 0))[0];
  if (thawing === undefined) return unchanged(shop, 'idle');
  const until = thawing.thawingAt ?? 0;
  const unmoved = pendingOrders(shop).filter(([, { givenBackTo }]) => givenBackTo < until);
  if (unmoved.length === 0)
    return [
      changeFreeze(shop, thawing.name, { doneAt: shop.clock }),
      { outcome: 'done', freeze: thawing.name },
    ];
  const names = firstDue(unmoved, limit, ties);
  const after = names.reduce((moved, name) => giveBack(moved, name, thawing.name, until), shop);
  const deadlines = Object.fromEntries(names.map((name) => [name, orderOf(after, name).deadlineAt]));
  return [after, { outcome: 'moved', deadlines }];
}

function giveBack(shop: Shop, name: string, freezeName: string, until: number): Shop {
  const { givenBackTo, deadlineAt: from } = orderOf(shop, name);
  const frozenMs = frozenTime(shop.freezes, givenBackTo, until);
  const to = from + frozenMs;
  const event = { type: 'order.thawed', freeze: freezeName, frozenMs, from, to };
  return tell(shop, name, { deadlineAt: to, givenBackTo: until }, event);
}

/** How long the clock stood still between two instants. Where freezes overlap, time counts once. */
function frozenTime(freezes: readonly Freeze[], from: number, until: number): number {
  let frozenMs = 0;
  let counted = from;
  for (const { frozenAt, thawingAt } of freezes.toSorted((a, b) => a.frozenAt - b.frozenAt)) {
    const start = Math.max(counted, frozenAt);
    const end = Math.min(until, thawingAt ?? until);
    if (end <= start) continue;
    frozenMs += end - start;
    counted = end;
  }
  return frozenMs;
}

// Stock

/** Sets what there is of a SKU, new or known. Null: nobody counts it. */
export function setStock(shop: Shop, sku: string, onHand: number | null): Step {
  if (onHand !== null && (onHand < 0 || onHand < heldOf(shop, sku))) return unchanged(shop, 'below_held');
  const after = { ...shop, stock: { ...shop.stock, [sku]: onHand } };
  return [after, { outcome: 'changed', stock: showStock(after, sku) }];
}

/** Adds to what there is of a SKU, or takes away. */
export function adjustStock(shop: Shop, sku: string, by: number): Step {
  const onHand = shop.stock[sku];
  if (onHand === undefined) return unchanged(shop, 'sku_not_found');
  return onHand === null ? unchanged(shop, 'not_counted') : setStock(shop, sku, onHand + by);
}
