/** Payment reminders: customers are told that their time runs out. See model.ts. */
import { isFrozen } from './freezes.ts';
import {
  changeOrder,
  nextReminder,
  pendingOrders,
  policies,
  tell,
  type RemindAnswer,
  type Shop,
  type Step,
} from './shop.ts';

/** Looks whether the customers of these orders are to be reminded; an answer for each order that there is. */
export function remind(shop: Shop, names: readonly string[]): Step {
  const answers: Record<string, RemindAnswer> = {};
  let after = shop;
  for (const name of new Set(names.filter((each) => each in shop.orders)))
    [after, answers[name]] = remindOne(after, name);
  return [after, { outcome: 'judged', answers }];
}

/** Of several reminders that were missed, the last is sent. */
function remindOne(shop: Shop, name: string): [Shop, RemindAnswer] {
  const order = shop.orders[name];
  const none: RemindAnswer = { answer: 'none' };
  if (order?.status !== 'pending_payment' || order.remindAt === null || isFrozen(shop, name))
    return [shop, none];
  const { deadlineAt, remindAt } = order;
  if (deadlineAt <= shop.clock) return [changeOrder(shop, name, { remindAt: null }), none];
  if (remindAt > shop.clock) return [shop, { answer: 'not_due', remainingMs: remindAt - shop.clock }];
  const passed = policies[order.paymentMethod].remindersMs.filter((ms) => deadlineAt - ms <= shop.clock);
  const next = nextReminder(order.paymentMethod, deadlineAt, shop.clock);
  const event = { type: 'order.payment_reminder', deadlineAt, beforeMs: Math.min(...passed) };
  const after = tell(shop, name, { remindAt: next }, event);
  return [after, { answer: 'reminded', nextMs: next === null ? null : next - shop.clock }];
}

/**
 * Sends up to `limit` reminders that are due, those that wait longest first.
 *
 * @param seen who was found: they go first where it is not laid down who does
 */
export function sweepReminders(shop: Shop, limit: number, seen: readonly string[]): Step {
  const found = pendingOrders(shop)
    .filter(([name]) => !isFrozen(shop, name))
    .map(([name, { remindAt }]) => ({ name, dueAt: remindAt ?? Infinity, isSeen: seen.includes(name) }))
    .filter(({ dueAt }) => dueAt <= shop.clock)
    .toSorted((a, b) => a.dueAt - b.dueAt || Number(b.isSeen) - Number(a.isSeen));
  return remind(
    shop,
    found.slice(0, limit).map(({ name }) => name),
  );
}
