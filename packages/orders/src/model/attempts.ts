/** Payment attempts: what a customer may still pay by, and what providers say of it. See model.ts. */
import { isFrozen } from './freezes.ts';
import {
  changeOrder,
  expireAtOf,
  openAttempts,
  orderOf,
  showOrder,
  tell,
  unchanged,
  type Attempt,
  type Provider,
  type Shop,
  type Step,
} from './shop.ts';

/**
 * A customer wants to pay. An order has one open attempt at each provider, which is answered again. None begins when the
 * order's time is over, which it is not while its clock stands still.
 */
export function beginAttempt(shop: Shop, wish: { attempt: string; order: string; provider: Provider }): Step {
  const { attempt: name, order: orderName, provider } = wish;
  const order = shop.orders[orderName];
  if (order === undefined) return unchanged(shop, 'order_not_found');
  const shown = { order: showOrder(shop, orderName) };
  if (order.status !== 'pending_payment') return unchanged(shop, 'not_pending', shown);
  if (order.closingAt !== null || (expireAtOf(order) <= shop.clock && !isFrozen(shop, orderName)))
    return unchanged(shop, 'order_closing', shown);
  const open = openAttempts(shop, orderName).find(([, attempt]) => attempt.provider === provider);
  if (open !== undefined) return unchanged(shop, open[1].state, { ...shown, attempt: open[0] });
  const attempt: Attempt = {
    order: orderName,
    provider,
    state: 'opening',
    openedAt: shop.clock,
    endedAt: null,
    verdict: null,
    verdictSince: null,
  };
  const told = tell(shop, orderName, {}, { type: 'attempt.opened', attempt: name });
  const after = { ...told, attempts: { ...told.attempts, [name]: attempt } };
  return [after, { outcome: 'opening', ...shown, attempt: name }];
}

function changeAttempt(shop: Shop, name: string, change: Partial<Attempt>): Shop {
  return { ...shop, attempts: { ...shop.attempts, [name]: { ...attemptOf(shop, name), ...change } } };
}

export function attemptOf(shop: Shop, name: string): Attempt {
  const attempt = shop.attempts[name];
  if (attempt === undefined) throw new Error(`there is no attempt ${name}`);
  return attempt;
}

/** Its provider has opened it. What has ended meanwhile stays so. */
export function opened(shop: Shop, name: string): Step {
  const { state } = attemptOf(shop, name);
  return state === 'opening'
    ? [changeAttempt(shop, name, { state: 'open' }), { outcome: 'open' }]
    : unchanged(shop, state);
}

/** What a provider says of an attempt that has brought no money. */
export type Said = 'closed' | 'refused' | 'open' | 'processing' | 'unknown';

/**
 * A provider's verdict. `closed` and `refused` end the attempt: no money comes of it. All others leave it, and its order,
 * as they are: held. `isDue`: nothing holds the order any more, and its time is over.
 */
export function verdict(shop: Shop, name: string, said: Said): Step {
  const { order: orderName, endedAt, verdict: before, verdictSince } = attemptOf(shop, name);
  if (endedAt !== null) return unchanged(shop, 'had_ended');
  if (said !== 'closed' && said !== 'refused') {
    const since = said === before ? verdictSince : shop.clock;
    const noted = changeAttempt(shop, name, { verdict: said, verdictSince: since });
    return [noted, { outcome: 'recorded', isDue: false }];
  }
  const after = end(shop, name, said);
  const order = orderOf(after, orderName);
  const isHeld = openAttempts(after, orderName).length > 0;
  const isDue = order.status === 'pending_payment' && !isHeld && expireAtOf(order) <= shop.clock;
  return [after, { outcome: 'recorded', isDue }];
}

/** The attempt has brought money, even one that had ended without. */
export const endPaid = (shop: Shop, name: string): Shop =>
  attemptOf(shop, name).state === 'paid' ? shop : end(shop, name, 'paid');

/** The last one that ends lifts the fence, unless the order's time is over. */
function end(shop: Shop, name: string, state: 'closed' | 'refused' | 'paid'): Shop {
  const { order: orderName, endedAt } = attemptOf(shop, name);
  const over = { state, endedAt: endedAt ?? shop.clock, verdict: null, verdictSince: null };
  const ended = changeAttempt(shop, name, over);
  const told = tell(ended, orderName, {}, { type: `attempt.${state}`, attempt: name });
  const isHeld = openAttempts(told, orderName).length > 0;
  return isHeld || expireAtOf(orderOf(told, orderName)) <= shop.clock
    ? told
    : changeOrder(told, orderName, { closingAt: null });
}
