/** Freezes: the clock of some orders stands still, and what they lost is given back. See model.ts. */
import {
  expireAtOf,
  orderOf,
  pendingOrders,
  tell,
  unchanged,
  type Freeze,
  type Scope,
  type Shop,
  type Step,
} from './shop.ts';

/** The clock of the pending orders in scope stands still. */
export function freeze(shop: Shop, name: string, scope: Scope): Step {
  const freezes = [...shop.freezes, { name, scope, frozenAt: shop.clock, thawingAt: null, doneAt: null }];
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

/**
 * Since when an order is in the scope of a freeze; Infinity: it is not. In that of a provider it is from its first attempt
 * there on, for good.
 */
export function inScopeSince(shop: Shop, name: string, { channel, paymentMethod, provider }: Scope): number {
  const order = orderOf(shop, name);
  if (channel !== undefined && channel !== order.channel) return Infinity;
  if (paymentMethod !== undefined && paymentMethod !== order.paymentMethod) return Infinity;
  if (provider === undefined) return order.createdAt;
  const there = Object.values(shop.attempts).filter(
    (attempt) => attempt.order === name && attempt.provider === provider,
  );
  return Math.min(...there.map(({ openedAt }) => openedAt));
}

/** An order is held by a freeze until the thaw has moved it, and by a thaw only if it was there before. */
export const isFrozen = (shop: Shop, name: string): boolean =>
  shop.freezes.some(({ scope, thawingAt, doneAt }) =>
    thawingAt === null
      ? inScopeSince(shop, name, scope) < Infinity
      : doneAt === null && isUnmoved(shop, name, scope, thawingAt),
  );

/** What waits for ever has lost nothing. */
const isUnmoved = (shop: Shop, name: string, scope: Scope, until: number): boolean => {
  const { deadlineAt, givenBackTo } = orderOf(shop, name);
  return deadlineAt < Infinity && givenBackTo < until && inScopeSince(shop, name, scope) < until;
};

/**
 * The next step of the thaw that began first: up to `limit` orders get back the time they stood frozen; when there
 * is none left, the freeze is done.
 *
 * @param first who goes first where not all can
 */
export function thawStep(shop: Shop, limit: number, first: readonly string[]): Step {
  const thawing = shop.freezes
    .filter(({ thawingAt, doneAt }) => thawingAt !== null && doneAt === null)
    .toSorted((a, b) => (a.thawingAt ?? 0) - (b.thawingAt ?? 0))[0];
  if (thawing === undefined) return unchanged(shop, 'idle');
  const until = thawing.thawingAt ?? 0;
  const unmoved = pendingOrders(shop)
    .map(([name]) => name)
    .filter((name) => isUnmoved(shop, name, thawing.scope, until));
  if (unmoved.length === 0)
    return [
      changeFreeze(shop, thawing.name, { doneAt: shop.clock }),
      { outcome: 'done', freeze: thawing.name },
    ];
  const names = unmoved
    .toSorted((a, b) => Number(first.includes(b)) - Number(first.includes(a)))
    .slice(0, limit);
  const after = names.reduce((moved, name) => giveBack(moved, name, thawing.name, until), shop);
  const deadlines = Object.fromEntries(names.map((name) => [name, expireAtOf(orderOf(after, name))]));
  return [after, { outcome: 'moved', deadlines }];
}

/** Its time goes on: where it is not over, the customer may pay in another way again. */
function giveBack(shop: Shop, name: string, freezeName: string, until: number): Shop {
  const order = orderOf(shop, name);
  const { deadlineAt: from, closingAt, remindAt } = order;
  const frozenMs = frozenTime(shop, name, until);
  const to = from + frozenMs;
  const isOver = expireAtOf(order) + frozenMs <= shop.clock;
  const change = {
    deadlineAt: to,
    givenBackTo: until,
    closingAt: isOver ? closingAt : null,
    remindAt: remindAt === null ? null : remindAt + frozenMs,
  };
  return tell(shop, name, change, { type: 'order.thawed', freeze: freezeName, frozenMs, from, to });
}

/** How long the clock of an order stood still until an instant and was not given back. What overlaps counts once. */
function frozenTime(shop: Shop, name: string, until: number): number {
  const { givenBackTo } = orderOf(shop, name);
  const spans = shop.freezes
    .map(({ scope, frozenAt, thawingAt }) => ({
      start: Math.max(givenBackTo, frozenAt, inScopeSince(shop, name, scope)),
      end: Math.min(until, thawingAt ?? until),
    }))
    .filter(({ start, end }) => start < end);
  let frozenMs = 0;
  let counted = 0;
  for (const { start, end } of spans.toSorted((a, b) => a.start - b.start)) {
    frozenMs += Math.max(0, end - Math.max(start, counted));
    counted = Math.max(counted, end);
  }
  return frozenMs;
}
