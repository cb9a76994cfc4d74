/**
 * What Lapse promises about orders, stock and money, as a pure state machine: one value for everything there is, and
 * one function for each thing that can be done, which answers what becomes of it. Nobody waits, nothing is lost, two
 * things never happen at once: what the database does under load is right when it could have happened here, in some
 * order.
 *
 * Written from the specification, to be read beside it, and simple where the implementation must be quick: nothing is
 * counted that can be summed up. The tests beside it hold the implementation to it.
 *
 * Instants and durations are milliseconds; the clock begins at 0. Orders, attempts, captures and freezes have names. Here
 * stand orders, time and stock; what customers pay by in attempts.ts, what money does in money.ts, clocks that stand still in
 * freezes.ts, reminders in reminders.ts. What is nowhere: the brake, and when it is that providers are asked.
 */
import { isFrozen } from './freezes.ts';
import {
  expireAtOf,
  finite,
  heldOf,
  nextReminder,
  openAttempts,
  pendingOrders,
  policies,
  shortOf,
  showOrder,
  showStock,
  tell,
  unchanged,
  type Answer,
  type Channel,
  type ExpireAnswer,
  type Item,
  type KeptAnswer,
  type Method,
  type Order,
  type Shop,
  type Step,
} from './shop.ts';

const dayMs = 24 * 60 * 60 * 1000;
const keyLifeMs = dayMs;
const farthestDeadlineMs = 90 * dayMs;

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
export function once(
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
    channel: Channel;
    paymentMethod: Method;
    currency: string;
    items: readonly Item[];
    /** Null: as the policy says. */
    windowMs: number | null;
    key?: Key | undefined;
  },
): Step {
  const { name, channel, paymentMethod, currency, items, windowMs, key } = request;
  return once(
    shop,
    `checkout ${key?.key}`,
    key,
    () => {
      const unknown = items.filter(({ sku }) => !(sku in shop.stock)).map(({ sku }) => sku);
      if (unknown.length > 0) return unchanged(shop, 'unknown_sku', { skus: unknown });
      const short = shortOf(shop, items);
      if (short.length > 0) return unchanged(shop, 'out_of_stock', { skus: short.map(({ sku }) => sku) });
      const policy = policies[paymentMethod];
      const deadlineAt = shop.clock + (windowMs ?? policy.windowMs);
      const order: Order = {
        status: 'pending_payment',
        cancelReason: null,
        channel,
        paymentMethod,
        currency,
        items,
        createdAt: shop.clock,
        deadlineAt,
        graceMs: policy.graceMs,
        remindAt: nextReminder(paymentMethod, deadlineAt, shop.clock),
        paidAt: null,
        cancelledAt: null,
        closingAt: null,
        extensionCount: 0,
        extendedMs: 0,
        givenBackTo: shop.clock,
        story: [{ type: 'order.placed', at: shop.clock, deadlineAt: finite(deadlineAt) }],
      };
      const after = { ...shop, orders: { ...shop.orders, [name]: order } };
      return [after, { outcome: 'placed', replayed: false, order: showOrder(after, name) }];
    },
    (kept) => ({ outcome: 'placed', replayed: true, order: showOrder(shop, kept.order) }),
  );
}

/** Somebody cancels. Neither freezes nor attempts hold it; a second time changes nothing. */
export function cancel(shop: Shop, name: string, reason: 'customer' | 'merchant'): Step {
  const order = shop.orders[name];
  if (order === undefined) return unchanged(shop, 'order_not_found');
  if (order.status !== 'pending_payment') {
    const outcome = order.status === 'paid' ? 'already_paid' : 'already_cancelled';
    return unchanged(shop, outcome, { order: showOrder(shop, name) });
  }
  const after = tell(shop, name, cancelled(shop, reason), { type: 'order.cancelled', reason });
  return [after, { outcome: 'cancelled', order: showOrder(after, name) }];
}

const cancelled = (shop: Shop, cancelReason: Order['cancelReason']): Partial<Order> => ({
  status: 'cancelled',
  cancelReason,
  cancelledAt: shop.clock,
  closingAt: null,
});

/**
 * More time to pay, unless its providers are being asked already. The new deadline lies behind the old one and behind now,
 * and at most 90 days ahead; policy bounds how often and how far.
 */
export function extend(shop: Shop, name: string, to: { byMs: number } | { deadlineAt: number }): Step {
  const order = shop.orders[name];
  if (order === undefined) return unchanged(shop, 'order_not_found');
  if (order.status !== 'pending_payment')
    return unchanged(shop, 'not_pending', { order: showOrder(shop, name) });
  const shown = { order: showOrder(shop, name) };
  if (order.closingAt !== null) return unchanged(shop, 'order_closing', shown);
  const { deadlineAt: from, extensionCount, extendedMs, paymentMethod } = order;
  const deadlineAt = 'byMs' in to ? from + to.byMs : to.deadlineAt;
  const isLater = deadlineAt > from && deadlineAt > shop.clock;
  if (!isLater || deadlineAt > shop.clock + farthestDeadlineMs) return unchanged(shop, 'out_of_range', shown);
  const { mostExtensions, mostExtendedMs } = policies[paymentMethod];
  const change = {
    deadlineAt,
    remindAt: nextReminder(paymentMethod, deadlineAt, shop.clock),
    extensionCount: extensionCount + 1,
    extendedMs: extendedMs + deadlineAt - from,
  };
  if (change.extensionCount > mostExtensions || change.extendedMs > mostExtendedMs)
    return unchanged(shop, 'beyond_policy', shown);
  const after = tell(shop, name, change, { type: 'order.extended', from, to: deadlineAt });
  return [after, { outcome: 'extended', order: showOrder(after, name) }];
}

// Time runs out

/** Cancels those of the orders that are pending, due, not frozen, and that no attempt holds; an answer for each. */
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
  if (isFrozen(shop, name)) return [shop, { answer: 'frozen' }];
  const expireAt = expireAtOf(order);
  const latenessMs = shop.clock - expireAt;
  if (latenessMs < 0) return [shop, { answer: 'not_due', remainingMs: -latenessMs }];
  if (openAttempts(shop, name).length > 0) {
    // Money may still come: it is fenced, and its providers are asked.
    if (order.closingAt !== null) return [shop, { answer: 'closing' }];
    return [tell(shop, name, { closingAt: shop.clock }, { type: 'order.closing' }), { answer: 'closing' }];
  }
  const reason = 'payment_timeout';
  const event = { type: 'order.cancelled', reason, expireAt, latenessMs };
  return [tell(shop, name, cancelled(shop, reason), event), { answer: 'cancelled', latenessMs }];
}

/**
 * Expires up to `limit` orders that are overdue, those that wait longest first. One whose providers are being asked may be
 * found now or later; those that they have answered about are found.
 *
 * @param seen who was found: they go first where it is not laid down who does
 */
export function sweep(shop: Shop, limit: number, seen: readonly string[]): Step {
  const found = pendingOrders(shop)
    .filter(([name, order]) => !isFrozen(shop, name) && expireAtOf(order) <= shop.clock)
    .map(([name, order]) => {
      const isSeen = seen.includes(name);
      const isFound = isSeen || order.closingAt === null || openAttempts(shop, name).length === 0;
      // One that had attempts waits since the last of them ended, or less long, where its providers did not answer.
      const hadAttempts = Object.values(shop.attempts).some((attempt) => attempt.order === name);
      const dueAt = hadAttempts ? (isSeen ? -1 : shop.clock) : expireAtOf(order);
      return { name, dueAt, isSeen, isFound };
    })
    .filter(({ isFound }) => isFound)
    .toSorted((a, b) => a.dueAt - b.dueAt || Number(b.isSeen) - Number(a.isSeen));
  return expire(
    shop,
    found.slice(0, limit).map(({ name }) => name),
  );
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
