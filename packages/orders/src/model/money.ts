/** Money: what it does when it arrives, how it goes back, and what a person decides. See model.ts. */
import { attemptOf, endPaid } from './attempts.ts';
import { once, type Key } from './model.ts';
import {
  amountOf,
  isListed,
  orderOf,
  paymentOf,
  policies,
  shortOf,
  showOrder,
  showPayment,
  tell,
  unchanged,
  type Answer,
  type Item,
  type ListReason,
  type Order,
  type Payment,
  type Refund,
  type Shop,
  type Step,
} from './shop.ts';

/** Money that somebody tells of. */
export interface Told {
  readonly order: string;
  readonly capture: string;
  readonly amount: number;
  readonly currency: string;
  /** Its provider tells of it; else the shop reports it. */
  readonly verified: boolean;
  /** What the customer paid by. */
  readonly attempt?: string;
  readonly key?: Key | undefined;
}

/**
 * Money for an order. A capture counts once. The right amount pays a pending order, however late it is, and its stock is
 * sold. All other money goes the way of the order's policy: it reinstates the order, goes back, or waits for a person.
 */
export function pay(shop: Shop, told: Told): Step {
  return once(
    shop,
    `pay ${told.key?.key}`,
    told.key,
    () => payOnce(shop, told),
    ({ outcome }) => answer(shop, told, outcome),
  );
}

function answer(shop: Shop, { capture, order }: Told, outcome: string): Answer {
  const payment = showPayment(shop, capture);
  return payment.order === null
    ? { outcome: 'orderless', payment }
    : { outcome, order: showOrder(shop, order), payment };
}

function payOnce(shop: Shop, told: Told): Step {
  const { order: name, capture, amount, currency, verified } = told;
  const order = shop.orders[name];
  if (order === undefined && !verified) return unchanged(shop, 'order_not_found');
  const known = shop.payments[capture];
  const before = withAttempt(shop, told);
  const { outcome, does, listedFor = null } = decide(before, told, order);
  if (known !== undefined && !isOpenAgain(known, told, order, does)) return repeat(shop, told, known);

  const payment: Payment = {
    order: order === undefined ? null : name,
    amount,
    currency,
    outcome,
    verified,
    recordedAt: known?.recordedAt ?? shop.clock,
    listedAt: listedFor === null ? null : shop.clock,
    listedFor,
    resolution: null,
    refund: does === 'refund' ? { state: 'due', actor: 'policy', formerCount: 0, hasComeBack: false } : null,
  };
  const recorded = { ...before, payments: { ...before.payments, [capture]: payment } };
  const after = order === undefined ? recorded : tellOfMoney(recorded, capture, does);
  return [after, answer(after, told, outcome)];
}

/** An attempt that brought money has ended. */
const withAttempt = (shop: Shop, { attempt }: Told): Shop =>
  attempt === undefined ? shop : endPaid(shop, attempt);

/**
 * Whether a capture that was told before is decided about anew: it has paid nothing and does not go back, and now its provider
 * says what only the shop had said, or for which order it is. What a person dismissed is, where it pays its order.
 */
function isOpenAgain(known: Payment, told: Told, order: Order | undefined, does: Does): boolean {
  const { outcome, resolution, refund } = known;
  if (!told.verified || outcome === 'paid' || refund !== null) return false;
  if (resolution !== null && (resolution !== 'dismiss' || does !== 'pay')) return false;
  return known.order === null
    ? order !== undefined && resolution === null
    : known.order === told.order && !known.verified;
}

/** The same capture again changes nothing, but that its provider knows better than the shop. */
function repeat(shop: Shop, told: Told, known: Payment): Step {
  const { order: name, capture, amount, currency, verified } = told;
  const isNews = verified && !known.verified;
  if (known.order !== (name in shop.orders ? name : null)) {
    const isWrong = isNews && known.listedFor !== 'conflict' && known.refund === null;
    return [isWrong ? list(shop, capture, 'conflict') : shop, { outcome: 'payment_conflict' }];
  }
  const ended = withAttempt(shop, told);
  const after = isNews ? restate(ended, capture, { amount, currency }) : ended;
  return [after, answer(after, told, 'already_recorded')];
}

function restate(shop: Shop, capture: string, now: Pick<Payment, 'amount' | 'currency'>): Shop {
  const known = paymentOf(shop, capture);
  const after = changePayment(shop, capture, { ...now, verified: true });
  const isSame = known.amount === now.amount && known.currency === now.currency;
  // Whoever is to decide about its refund sees the new amount; who dismissed it did not know that it was true.
  if (known.refund !== null) return after;
  return isSame && known.resolution !== 'dismiss' ? after : list(after, capture, 'restated');
}

/** A person is to decide, even one who has already, before this was known. */
function list(shop: Shop, capture: string, listedFor: ListReason): Shop {
  const known = paymentOf(shop, capture);
  const listedAt = isListed(known) ? known.listedAt : shop.clock;
  const listed = changePayment(shop, capture, { listedFor, listedAt, resolution: null });
  return known.order === null ? listed : tellOfMoney(listed, capture, 'list');
}

function changePayment(shop: Shop, capture: string, change: Partial<Payment>): Shop {
  const payment = { ...paymentOf(shop, capture), ...change };
  return { ...shop, payments: { ...shop.payments, [capture]: payment } };
}

type Does = 'pay' | 'reinstate' | 'refund' | 'list';

function decide(
  shop: Shop,
  { amount, currency, verified }: Told,
  order: Order | undefined,
): { outcome: Payment['outcome']; does: Does; listedFor?: ListReason } {
  if (order === undefined) return { outcome: 'orderless', does: 'list', listedFor: 'orderless' };
  const isExact = amount === amountOf(order) && currency === order.currency;
  const { lateMoney } = policies[order.paymentMethod];
  if (order.status === 'pending_payment' && isExact) return { outcome: 'paid', does: 'pay' };
  const isTimeout = order.cancelReason === 'payment_timeout';
  if (lateMoney === 'reinstate' && isTimeout && isExact && shortOf(shop, order.items).length === 0)
    return { outcome: 'paid', does: 'reinstate' };
  const outcome = whyNot(order);
  if (lateMoney === 'manual') return { outcome, does: 'list', listedFor: 'policy' };
  return verified ? { outcome, does: 'refund' } : { outcome, does: 'list', listedFor: 'unverified' };
}

function whyNot({ status }: Order): Payment['outcome'] {
  if (status === 'cancelled') return 'late';
  return status === 'paid' ? 'duplicate' : 'amount_mismatch';
}

/** Does with the order what its money does, and tells it in its story. */
function tellOfMoney(shop: Shop, capture: string, does: Does): Shop {
  const { order: name, outcome, listedFor } = paymentOf(shop, capture);
  if (name === null) throw new Error(`${capture} has no order`);
  switch (does) {
    case 'pay':
    case 'reinstate':
      return settle(shop, name, { capture, outcome });
    case 'refund':
      return tell(shop, name, {}, { type: 'payment.refund_due', capture, outcome });
    case 'list':
      return tell(shop, name, {}, { type: 'payment.listed', capture, outcome, listedFor });
  }
}

/** The order is paid, its stock sold. What was cancelled is so no more. */
function settle(shop: Shop, name: string, details: object): Shop {
  const { status, items } = orderOf(shop, name);
  const type = status === 'cancelled' ? 'order.reinstated' : 'order.paid';
  const change = {
    status: 'paid',
    paidAt: shop.clock,
    cancelledAt: null,
    cancelReason: null,
    closingAt: null,
  } as const;
  const paid = tell(shop, name, change, { type, ...details });
  return { ...paid, stock: withoutItems(paid.stock, items) };
}

/** Stock that nobody counts stays uncounted. */
function withoutItems(stock: Shop['stock'], items: readonly Item[]): Shop['stock'] {
  const left = items.map(({ sku, quantity }) => {
    const onHand = stock[sku] ?? null;
    return [sku, onHand === null ? null : onHand - quantity] as const;
  });
  return { ...stock, ...Object.fromEntries(left) };
}

// Money goes back

const returned = { resolution: 'refund' } as const;

const isUnderWay = (refund: Refund | null): boolean => refund?.state === 'due' || refund?.state === 'sent';

/**
 * What the provider says of a refund. One that has ended stays so, but that its bank may send it back: then it has failed, and
 * that it once arrived is nothing new. Where it was refused, and sent again or not yet, it may turn out to have arrived.
 *
 * @param isFormer it is said of one that was sent in vain before
 */
export function refundVerdict(
  shop: Shop,
  capture: string,
  said: 'sent' | 'confirmed' | 'refused' | 'unknown',
  isFormer: boolean,
): Step {
  const { order: name, refund } = paymentOf(shop, capture);
  const comesBack = refund?.state === 'confirmed' && said === 'refused';
  const isListedNow = isListed(paymentOf(shop, capture));
  const arrives = refund?.state === 'failed' && said === 'confirmed' && !refund.hasComeBack && isListedNow;
  const counts = isFormer
    ? said === 'confirmed' && isUnderWay(refund)
    : isUnderWay(refund) || comesBack || arrives;
  if (refund === null || !counts) return unchanged(shop, 'nothing');
  if (said === 'unknown') return unchanged(shop, refund.state);
  const state = said === 'refused' ? 'failed' : said;
  const isNews = state !== refund.state;
  const failed = { listedAt: shop.clock, listedFor: 'refund_failed', resolution: null } as const;
  const after = changePayment(shop, capture, {
    refund: { ...refund, state, hasComeBack: refund.hasComeBack || comesBack },
    ...(state === 'failed' && failed),
    ...(arrives && returned),
  });
  if (name === null || !isNews) return [after, { outcome: state }];
  return [tell(after, name, {}, { type: `refund.${state}`, capture }), { outcome: state }];
}

// A person decides

const paid = { outcome: 'paid' } as const;

/** Does what a person decided about a payment on the work list. The first decision counts. */
export function resolve(shop: Shop, capture: string, resolution: 'refund' | 'accept' | 'dismiss'): Step {
  const payment = paymentOf(shop, capture);
  const { order: name, refund } = payment;
  const shown = { payment: showPayment(shop, capture) };
  if (!isListed(payment)) return unchanged(shop, 'not_listed', shown);
  if (isUnderWay(refund)) return unchanged(shop, 'refund_under_way', shown);
  const refusal = resolution === 'accept' ? whyNotAccepted(shop, payment) : undefined;
  if (refusal !== undefined) return unchanged(shop, refusal);

  const pays = resolution === 'accept' && payment.outcome !== 'paid';
  const formerCount = refund === null ? 0 : refund.formerCount + (refund.hasComeBack ? 0 : 1);
  const again = { state: 'due', actor: 'test', formerCount, hasComeBack: false } as const;
  const decided = changePayment(shop, capture, {
    resolution,
    ...(pays && paid),
    ...(resolution === 'refund' && { refund: again }),
  });
  const settled = pays && name !== null ? settle(decided, name, { capture }) : decided;
  const event = { type: 'payment.resolved', capture, resolution };
  const after = name === null ? settled : tell(settled, name, {}, event);
  return [after, { outcome: 'resolved', payment: showPayment(after, capture), isPaid: pays }];
}

function whyNotAccepted(shop: Shop, { order: name, outcome }: Payment): string | undefined {
  if (name === null) return 'orderless';
  const { status, cancelReason, items } = orderOf(shop, name);
  if (outcome === 'paid' || status === 'pending_payment') return undefined;
  if (status === 'paid') return 'order_already_paid';
  if (cancelReason !== 'payment_timeout') return 'order_was_cancelled';
  return shortOf(shop, items).length > 0 ? 'out_of_stock' : undefined;
}

/** What a provider tells of an attempt that brought money. */
export function payByAttempt(
  shop: Shop,
  name: string,
  money: Pick<Told, 'capture' | 'amount' | 'currency'>,
): Step {
  return pay(shop, { ...money, order: attemptOf(shop, name).order, verified: true, attempt: name });
}
