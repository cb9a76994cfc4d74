import { attemptOf, beginAttempt, opened, verdict, type Said } from './attempts.ts';
import { freeze, thaw, thawStep } from './freezes.ts';
import * as model from './model.ts';
import { pay, payByAttempt, refundVerdict, resolve } from './money.ts';
import { remind, sweepReminders } from './reminders.ts';
import {
  amountOf,
  expireAtOf,
  type Answer,
  type Channel,
  type Item,
  type Method,
  type Provider,
  type Scope,
  type Shop,
  type Step,
} from './shop.ts';

/** What can be done to a shop, in the model as in the database. Orders, attempts, captures and freezes go by their names. */
export type Command =
  | {
      readonly do: 'checkout';
      readonly order: string;
      readonly channel: Channel;
      readonly method: Method;
      readonly items: Readonly<Record<string, number>>;
      /** Null: as the policy says. */
      readonly windowMs: number | null;
      readonly key: string | null;
    }
  | {
      readonly do: 'pay';
      readonly order: string;
      readonly capture: string;
      /** How much more it is than the order costs. */
      readonly excess: number;
      readonly currency: string;
      readonly verified: boolean;
      readonly key: string | null;
    }
  | {
      readonly do: 'begin attempt';
      readonly attempt: string;
      readonly order: string;
      readonly provider: Provider;
    }
  | { readonly do: 'opened'; readonly attempt: string }
  | { readonly do: 'verdict'; readonly attempt: string; readonly said: Said }
  /** The provider of an attempt tells of its capture, which it calls so. */
  | {
      readonly do: 'attempt pays';
      readonly attempt: string;
      readonly capture: string;
      readonly excess: number;
    }
  | {
      readonly do: 'refund verdict';
      readonly capture: string;
      readonly said: 'sent' | 'confirmed' | 'refused' | 'unknown';
      /** Of one that was sent in vain before. */
      readonly isFormer: boolean;
    }
  | { readonly do: 'resolve'; readonly capture: string; readonly resolution: 'refund' | 'accept' | 'dismiss' }
  | { readonly do: 'cancel'; readonly order: string; readonly reason: 'customer' | 'merchant' }
  | { readonly do: 'extend'; readonly order: string; readonly byMs: number }
  /** To an instant this long after now. */
  | { readonly do: 'extend to'; readonly order: string; readonly inMs: number }
  | { readonly do: 'expire'; readonly orders: readonly string[] }
  | { readonly do: 'sweep'; readonly limit: number }
  | { readonly do: 'remind'; readonly orders: readonly string[] }
  | { readonly do: 'sweep reminders'; readonly limit: number }
  | { readonly do: 'set stock'; readonly sku: string; readonly onHand: number | null }
  | { readonly do: 'adjust stock'; readonly sku: string; readonly by: number }
  | { readonly do: 'freeze'; readonly freeze: string; readonly scope: Scope }
  | { readonly do: 'thaw'; readonly freeze: string }
  | { readonly do: 'thaw step'; readonly limit: number }
  | { readonly do: 'pass'; readonly ms: number }
  /** Until so many milliseconds behind (before, if negative) the instant an order expires. */
  | { readonly do: 'pass to expiry'; readonly order: string; readonly plusMs: number }
  | { readonly do: 'pass to reminder'; readonly order: string; readonly plusMs: number }
  | { readonly do: 'purge keys' };

/** Those that a client may give an idempotency key. */
type Keyed = Extract<Command, { key: string | null }>;

/** An order that is never placed. */
export const unknownOrder = '0';

/** What one piece costs, in cents. */
const unitAmount = 500;
export const currency = 'EUR';

export const itemsOf = (items: Readonly<Record<string, number>>): Item[] =>
  Object.entries(items).map(([sku, quantity]) => ({ sku, quantity, unitAmount }));

/** Whether a story can go on with this: names are given once, and what is named is there. */
export function isPossible(shop: Shop, command: Command): boolean {
  switch (command.do) {
    case 'checkout':
      return !(command.order in shop.orders);
    case 'freeze':
      return shop.freezes.every(({ name }) => name !== command.freeze);
    case 'thaw':
      return shop.freezes.some(({ name }) => name === command.freeze);
    case 'begin attempt':
      return !(command.attempt in shop.attempts) && isNamed(shop, command.order);
    case 'opened':
    case 'verdict':
    case 'attempt pays':
      return command.attempt in shop.attempts;
    case 'refund verdict': {
      const { refund = null } = shop.payments[command.capture] ?? {};
      return refund !== null && (!command.isFormer || refund.formerCount > 0);
    }
    case 'resolve':
      return command.capture in shop.payments;
    case 'pay':
    case 'cancel':
    case 'extend':
    case 'extend to':
      return isNamed(shop, command.order);
    case 'expire':
    case 'remind':
      return command.orders.every((name) => isNamed(shop, name));
    case 'pass to expiry':
    case 'pass to reminder':
      return Number.isFinite(msTo(shop, command)) && msTo(shop, command) > 0;
    case 'thaw step':
      return shop.freezes.some(({ doneAt }) => doneAt === null);
    case 'sweep':
    case 'sweep reminders':
    case 'set stock':
    case 'adjust stock':
    case 'pass':
    case 'purge keys':
      return true;
  }
}

const isNamed = (shop: Shop, order: string): boolean => order === unknownOrder || order in shop.orders;

function msTo(shop: Shop, command: Extract<Command, { do: 'pass to expiry' | 'pass to reminder' }>): number {
  const order = shop.orders[command.order];
  if (order === undefined) return 0;
  const at = command.do === 'pass to expiry' ? expireAtOf(order) : (order.remindAt ?? 0);
  return at + command.plusMs - shop.clock;
}

/** The money that a command brings. */
export function moneyOf(
  shop: Shop,
  command: Extract<Command, { do: 'pay' | 'attempt pays' }>,
): { order: string; provider: string; capture: string; amount: number; currency: string; verified: boolean } {
  const amountFor = (name: string): number => {
    const order = shop.orders[name];
    return (order === undefined ? unitAmount : amountOf(order)) + command.excess;
  };
  if (command.do === 'pay') {
    const { order, capture, verified } = command;
    const [provider = ''] = capture.split(' ');
    return { order, provider, capture, amount: amountFor(order), currency: command.currency, verified };
  }
  const { order, provider } = attemptOf(shop, command.attempt);
  const capture = `${provider} ${command.capture}`;
  return { order, provider, capture, amount: amountFor(order), currency, verified: true };
}

/** What a request with an idempotency key says. */
const bodyOf = ({ key: _, ...body }: Keyed): string =>
  JSON.stringify(body.do === 'checkout' ? { ...body, order: null } : body);

export const keyOf = (command: Keyed): model.Key | undefined =>
  command.key === null ? undefined : { key: command.key, body: bodyOf(command) };

/**
 * Does it in the model.
 *
 * @param seen what the database answered: where the specification leaves the choice, the model chooses the same
 */
export function inModel(shop: Shop, command: Command, seen?: Answer): Step {
  switch (command.do) {
    case 'checkout': {
      const { order: name, method: paymentMethod, items, key: _, ...rest } = command;
      const request = { ...rest, name, paymentMethod, currency, items: itemsOf(items) };
      return model.checkout(shop, { ...request, key: keyOf(command) });
    }
    case 'pay':
      return pay(shop, { ...moneyOf(shop, command), key: keyOf(command) });
    case 'begin attempt':
      return beginAttempt(shop, command);
    case 'opened':
      return opened(shop, command.attempt);
    case 'verdict':
      return verdict(shop, command.attempt, command.said);
    case 'attempt pays':
      return payByAttempt(shop, command.attempt, moneyOf(shop, command));
    case 'refund verdict':
      return refundVerdict(shop, command.capture, command.said, command.isFormer);
    case 'resolve':
      return resolve(shop, command.capture, command.resolution);
    case 'cancel':
      return model.cancel(shop, command.order, command.reason);
    case 'extend':
      return model.extend(shop, command.order, { byMs: command.byMs });
    case 'extend to':
      return model.extend(shop, command.order, { deadlineAt: shop.clock + command.inMs });
    case 'expire':
      return model.expire(shop, command.orders);
    case 'sweep':
      return model.sweep(shop, command.limit, Object.keys(seen?.answers ?? {}));
    case 'remind':
      return remind(shop, command.orders);
    case 'sweep reminders':
      return sweepReminders(shop, command.limit, Object.keys(seen?.answers ?? {}));
    case 'set stock':
      return model.setStock(shop, command.sku, command.onHand);
    case 'adjust stock':
      return model.adjustStock(shop, command.sku, command.by);
    case 'freeze':
      return freeze(shop, command.freeze, command.scope);
    case 'thaw':
      return thaw(shop, command.freeze);
    case 'thaw step':
      return thawStep(shop, command.limit, Object.keys(seen?.deadlines ?? {}));
    case 'pass':
      return model.pass(shop, command.ms);
    case 'pass to expiry':
    case 'pass to reminder':
      return model.pass(shop, msTo(shop, command));
    case 'purge keys':
      return model.purgeKeys(shop);
  }
}
