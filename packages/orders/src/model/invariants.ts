import { inScopeSince } from './freezes.ts';
import { amountOf, expireAtOf, heldOf, isListed, type Payment, type Shop } from './shop.ts';

/** What is always true, of the model; a sentence for each breach. The first four of the specification, and history. */
export function breaches(before: Shop, after: Shop): string[] {
  return [...wrongStock(after), ...wrongOrders(after), ...wrongMoney(after), ...rewritten(before, after)];
}

const wrongStock = (shop: Shop): string[] =>
  Object.entries(shop.stock).flatMap(([sku, onHand]) => {
    const held = heldOf(shop, sku);
    return onHand !== null && held > onHand ? [`${held} of ${sku} are held, ${onHand} are there`] : [];
  });

function wrongOrders(shop: Shop): string[] {
  const wrong: string[] = [];
  for (const [name, order] of Object.entries(shop.orders)) {
    const ends = order.story
      .map(({ type }) => type)
      .filter((type) => ['order.paid', 'order.cancelled', 'order.reinstated'].includes(type));
    const right = {
      pending_payment: [''],
      cancelled: ['order.cancelled'],
      paid: ['order.paid', 'order.cancelled,order.reinstated'],
    }[order.status];
    if (!right.includes(String(ends)))
      wrong.push(`order ${name} is ${order.status}, its story tells ${ends.join(', ')}`);

    const paying = Object.values(shop.payments).filter(
      (payment) => payment.order === name && payment.outcome === 'paid',
    );
    if (paying.length !== (order.status === 'paid' ? 1 : 0))
      wrong.push(`order ${name} is ${order.status}, paid by ${paying.length} payments`);
    if (order.closingAt !== null && (order.status !== 'pending_payment' || shop.clock < expireAtOf(order)))
      wrong.push(`order ${name} is fenced before its time, or after its end`);

    if (order.cancelReason !== 'payment_timeout') continue;
    const at = order.cancelledAt ?? 0;
    if (at < expireAtOf(order)) wrong.push(`order ${name} was cancelled before its time`);
    const frozen = shop.freezes.some(
      ({ scope, frozenAt, thawingAt }) =>
        frozenAt < at && (thawingAt === null || at < thawingAt) && inScopeSince(shop, name, scope) < at,
    );
    if (frozen) wrong.push(`order ${name} was cancelled for time while its clock stood still`);
    const wasHeld = Object.values(shop.attempts).some(
      (attempt) => attempt.order === name && (attempt.endedAt ?? Infinity) > at,
    );
    if (wasHeld) wrong.push(`order ${name} was cancelled for time while it could be paid`);
  }
  return wrong;
}

/** No money without goods, a refund or a person who is told; and not goods and money. */
function wrongMoney(shop: Shop): string[] {
  const wrong: string[] = [];
  for (const [capture, payment] of Object.entries(shop.payments)) {
    const { order: name, outcome, refund, resolution, verified } = payment;
    const order = shop.orders[name ?? ''];
    const pays = outcome === 'paid' && order?.status === 'paid';
    const goesBack = refund !== null && refund.state !== 'failed';
    if (!pays && !goesBack && !isListed(payment) && resolution !== 'dismiss')
      wrong.push(`${capture} is money without goods, a refund or a person told`);
    if (pays && goesBack && resolution !== 'refund') wrong.push(`${capture} paid its order and goes back`);
    const isExact =
      order !== undefined && payment.amount === amountOf(order) && payment.currency === order.currency;
    if (pays && !isExact && payment.listedAt === null)
      wrong.push(`${capture} paid its order, which costs otherwise`);
    if (refund?.actor === 'policy' && !verified) wrong.push(`${capture} goes back on a mere report`);
  }
  return wrong;
}

/** What is over stays as it was: ends of orders, recorded money, told events. */
function rewritten(before: Shop, after: Shop): string[] {
  const wrong: string[] = [];
  for (const [name, old] of Object.entries(before.orders)) {
    const order = after.orders[name];
    const isReinstated = old.cancelReason === 'payment_timeout' && order?.status === 'paid';
    if (old.status !== 'pending_payment' && order?.status !== old.status && !isReinstated)
      wrong.push(`order ${name} was ${old.status} and became ${order?.status}`);
    if (order === undefined || order.deadlineAt < old.deadlineAt)
      wrong.push(`order ${name} lost time or disappeared`);
    if (old.story.some((event, n) => order?.story[n] !== event))
      wrong.push(`the story of order ${name} was rewritten`);
  }
  for (const [name, { endedAt }] of Object.entries(before.attempts)) {
    if (endedAt !== null && after.attempts[name]?.endedAt !== endedAt)
      wrong.push(`attempt ${name} had ended and ended again`);
  }
  for (const [capture, old] of Object.entries(before.payments)) {
    const payment = after.payments[capture];
    if (payment === undefined || !mayBecome(old, payment)) wrong.push(`the payment ${capture} was changed`);
  }
  return wrong;
}

/** What may happen to a payment: what it did stays done, and its way back goes forward. */
function mayBecome(old: Payment, now: Payment): boolean {
  const refundStates = [old.refund, now.refund].map((refund) => refund?.state ?? 'none').join(' ');
  const isForward =
    /^(none (none|due)|due (due|sent|confirmed|failed)|sent (sent|confirmed|failed)|confirmed (confirmed|failed)|failed (failed|due|confirmed))$/;
  return (
    now.recordedAt === old.recordedAt &&
    (old.outcome !== 'paid' || now.outcome === 'paid') &&
    (old.order === null || now.order === old.order) &&
    (!old.verified || (now.verified && now.amount === old.amount) || old.order === null) &&
    isForward.test(refundStates)
  );
}
