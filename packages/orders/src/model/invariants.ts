import { amountOf, heldOf, type Shop } from './shop.ts';

/** What is always true, of the model; a sentence for each breach. The first four of the specification, and history. */
export function breaches(before: Shop, after: Shop): string[] {
  return [...wrongNow(after), ...rewritten(before, after)];
}

function wrongNow(shop: Shop): string[] {
  const wrong: string[] = [];
  for (const [sku, onHand] of Object.entries(shop.stock)) {
    const held = heldOf(shop, sku);
    if (onHand !== null && held > onHand) wrong.push(`${held} of ${sku} are held, ${onHand} are there`);
  }
  for (const [name, order] of Object.entries(shop.orders)) {
    const ends = order.story.filter(({ type }) => type === 'order.paid' || type === 'order.cancelled');
    const end = order.status === 'pending_payment' ? [] : [`order.${order.status}`];
    if (String(ends.map(({ type }) => type)) !== String(end))
      wrong.push(
        `order ${name} is ${order.status}, its story tells ${ends.map(({ type }) => type).join(', ')}`,
      );

    const paying = Object.values(shop.payments).filter(
      (payment) => payment.order === name && payment.outcome === 'paid',
    );
    const isPaidFor =
      paying.length === 1 &&
      paying.every(({ amount, currency }) => amount === amountOf(order) && currency === order.currency);
    if (order.status === 'paid' ? !isPaidFor : paying.length > 0)
      wrong.push(`order ${name} is ${order.status}, paid by ${paying.length} payments`);

    if (order.cancelReason !== 'payment_timeout') continue;
    const at = order.cancelledAt ?? 0;
    if (at < order.deadlineAt) wrong.push(`order ${name} was cancelled before its deadline`);
    const frozen = shop.freezes.some(
      ({ frozenAt, thawingAt }) => frozenAt < at && (thawingAt === null || at < thawingAt),
    );
    if (frozen) wrong.push(`order ${name} was cancelled for time while its clock stood still`);
  }
  return wrong;
}

/** What is over stays as it was: ends of orders, recorded money, told events. */
function rewritten(before: Shop, after: Shop): string[] {
  const wrong: string[] = [];
  for (const [name, old] of Object.entries(before.orders)) {
    const order = after.orders[name];
    if (old.status !== 'pending_payment' && order?.status !== old.status)
      wrong.push(`order ${name} was ${old.status} and became ${order?.status}`);
    if (order === undefined || order.deadlineAt < old.deadlineAt)
      wrong.push(`order ${name} lost time or disappeared`);
    if (old.story.some((event, n) => order?.story[n] !== event))
      wrong.push(`the story of order ${name} was rewritten`);
  }
  for (const [capture, payment] of Object.entries(before.payments)) {
    if (after.payments[capture] !== payment) wrong.push(`the payment ${capture} was changed`);
  }
  return wrong;
}
