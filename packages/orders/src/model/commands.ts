import { createHash } from 'node:crypto';
import * as model from './model.ts';
import { amountOf, type Answer, type Item, type Shop, type Step } from './shop.ts';
import type { Stage } from './stage.ts';

/** What can be done to a shop, in the model as in the database. Orders, captures and freezes go by their names. */
export type Command =
  | {
      readonly do: 'checkout';
      readonly order: string;
      readonly items: Readonly<Record<string, number>>;
      readonly windowMs: number;
      readonly key: string | null;
    }
  | {
      readonly do: 'pay';
      readonly order: string;
      readonly capture: string;
      /** How much more it is than the order costs. */
      readonly excess: number;
      readonly currency: string;
      readonly key: string | null;
    }
  | { readonly do: 'cancel'; readonly order: string; readonly reason: 'customer' | 'merchant' }
  | { readonly do: 'extend'; readonly order: string; readonly byMs: number }
  /** To an instant this long after now. */
  | { readonly do: 'extend to'; readonly order: string; readonly inMs: number }
  | { readonly do: 'expire'; readonly orders: readonly string[] }
  | { readonly do: 'sweep'; readonly limit: number }
  | { readonly do: 'set stock'; readonly sku: string; readonly onHand: number | null }
  | { readonly do: 'adjust stock'; readonly sku: string; readonly by: number }
  | { readonly do: 'freeze'; readonly freeze: string }
  | { readonly do: 'thaw'; readonly freeze: string }
  | { readonly do: 'thaw step'; readonly limit: number }
  | { readonly do: 'pass'; readonly ms: number }
  /** Until so many milliseconds behind (before, if negative) the deadline of an order. */
  | { readonly do: 'pass to deadline'; readonly order: string; readonly plusMs: number }
  | { readonly do: 'purge keys' };

/** An order that is never placed. */
export const unknownOrder = '0';

/** What one piece costs, in cents. */
const unitAmount = 500;
const currency = 'EUR';

const itemsOf = (items: Readonly<Record<string, number>>): Item[] =>
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
    case 'pay':
    case 'cancel':
    case 'extend':
    case 'extend to':
      return command.order === unknownOrder || command.order in shop.orders;
    case 'expire':
      return command.orders.every((name) => name === unknownOrder || name in shop.orders);
    case 'pass to deadline':
      return msToDeadline(shop, command) > 0;
    case 'thaw step':
      return shop.freezes.some(({ doneAt }) => doneAt === null);
    case 'sweep':
    case 'set stock':
    case 'adjust stock':
    case 'pass':
    case 'purge keys':
      return true;
  }
}

const msToDeadline = (shop: Shop, { order, plusMs }: { order: string; plusMs: number }): number =>
  (shop.orders[order]?.deadlineAt ?? 0) + plusMs - shop.clock;

const amountToPay = (shop: Shop, { order: name, excess }: { order: string; excess: number }): number => {
  const order = shop.orders[name];
  return (order === undefined ? unitAmount : amountOf(order)) + excess;
};

/** What a request with an idempotency key says. */
const bodyOf = ({ key: _, ...body }: Extract<Command, { key: string | null }>): string =>
  JSON.stringify(body.do === 'checkout' ? { ...body, order: null } : body);

const keyOf = (command: Extract<Command, { key: string | null }>): model.Key | undefined =>
  command.key === null ? undefined : { key: command.key, body: bodyOf(command) };

/**
 * Does it in the model.
 *
 * @param seen what the database answered: where the specification leaves the choice, the model chooses the same
 */
export function inModel(shop: Shop, command: Command, seen?: Answer): Step {
  switch (command.do) {
    case 'checkout': {
      const { order: name, items, windowMs } = command;
      return model.checkout(shop, { name, currency, items: itemsOf(items), windowMs, key: keyOf(command) });
    }
    case 'pay':
      return model.pay(shop, { ...command, amount: amountToPay(shop, command), key: keyOf(command) });
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
    case 'set stock':
      return model.setStock(shop, command.sku, command.onHand);
    case 'adjust stock':
      return model.adjustStock(shop, command.sku, command.by);
    case 'freeze':
      return model.freeze(shop, command.freeze);
    case 'thaw':
      return model.thaw(shop, command.freeze);
    case 'thaw step':
      return model.thawStep(shop, command.limit, Object.keys(seen?.deadlines ?? {}));
    case 'pass':
      return model.pass(shop, command.ms);
    case 'pass to deadline':
      return model.pass(shop, msToDeadline(shop, command));
    case 'purge keys':
      return model.purgeKeys(shop);
  }
}

/**
 * Does it in the database.
 *
 * @param shop the model before it: what an order costs, what time it is
 * @returns a function that tells the answer in the model's words, once the names of everything are known
 */
export async function inDatabase(stage: Stage, shop: Shop, command: Command): Promise<() => Answer> {
  const { orders, names } = stage;
  const actor = 'test';
  switch (command.do) {
    case 'checkout': {
      const answer = await orders.checkout({
        reference: `order ${command.order}`,
        channel: 'default',
        paymentMethod: 'card',
        currency,
        items: itemsOf(command.items),
        paymentWindowMs: command.windowMs,
        metadata: {},
        actor,
        idempotency: hashed('checkout', keyOf(command)),
      });
      if (answer.outcome !== 'placed') return () => ({ ...answer });
      if (!answer.replayed) names.orders.give(command.order, answer.order.id);
      return () => ({ ...answer, order: names.order(answer.order) });
    }
    case 'pay': {
      const answer = await orders.pay({
        orderId: names.orders.idOf(command.order),
        provider: 'bank',
        providerPaymentId: command.capture,
        amount: amountToPay(shop, command),
        currency: command.currency,
        verified: false,
        actor,
        idempotency: hashed('pay', keyOf(command)),
      });
      if (!('order' in answer)) return () => ({ ...answer });
      return () => ({
        outcome: answer.outcome,
        order: names.order(answer.order),
        payment: names.payment(answer.payment),
      });
    }
    case 'cancel': {
      const { order, reason } = command;
      const answer = await orders.cancel({ orderId: names.orders.idOf(order), reason, actor });
      return () => ('order' in answer ? { ...answer, order: names.order(answer.order) } : { ...answer });
    }
    case 'extend':
    case 'extend to': {
      const to = command.do === 'extend' ? command : { deadlineAt: names.dateOf(shop.clock + command.inMs) };
      const answer = await orders.extend({ orderId: names.orders.idOf(command.order), to, actor });
      return () => ('order' in answer ? { ...answer, order: names.order(answer.order) } : { ...answer });
    }
    case 'expire':
    case 'sweep': {
      const answers =
        command.do === 'sweep'
          ? await orders.sweep(command.limit, actor)
          : await orders.expire(
              command.orders.map((name) => names.orders.idOf(name)),
              actor,
            );
      return () => ({
        outcome: 'judged',
        answers: Object.fromEntries(Array.from(answers, ([id, answer]) => [names.orders.nameOf(id), answer])),
      });
    }
    case 'set stock':
    case 'adjust stock': {
      const answer =
        command.do === 'set stock'
          ? await orders.setStock(command.sku, command.onHand)
          : await orders.adjustStock(command.sku, command.by);
      return () => ({ ...answer });
    }
    case 'freeze': {
      const { id } = await orders.freeze({ reason: command.freeze, actor });
      names.freezes.give(command.freeze, id);
      return () => ({ outcome: 'frozen' });
    }
    case 'thaw': {
      const thawing = await orders.thaw(names.freezes.idOf(command.freeze));
      return () => ({ outcome: thawing === undefined ? 'nothing_to_thaw' : 'thawing' });
    }
    case 'thaw step': {
      const step = await orders.thawStep(command.limit);
      switch (step.state) {
        case 'idle':
        case 'waiting':
          return () => ({ outcome: step.state });
        case 'done':
          return () => ({ outcome: 'done', freeze: names.freezes.nameOf(step.freezeId) });
        case 'moved':
          return () => ({
            outcome: 'moved',
            deadlines: Object.fromEntries(
              step.deadlines.map(({ orderId, expireAt }) => [
                names.orders.nameOf(orderId),
                names.msOf(expireAt),
              ]),
            ),
          });
      }
    }
    // falls through: the switch above is exhaustive
    case 'pass':
    case 'pass to deadline': {
      await stage.setClock(inModel(shop, command)[0].clock);
      return () => ({ outcome: 'passed' });
    }
    case 'purge keys': {
      const { purgedCount: count } = await orders.purgeIdempotencyKeys({ from: 0, count: 1000 });
      return () => ({ outcome: 'purged', count });
    }
  }
}

function hashed(scope: string, key: model.Key | undefined) {
  if (key === undefined) return undefined;
  return { scope, key: key.key, bodyHash: createHash('sha256').update(key.body).digest() };
}

/** The command as a sentence. */
export function sentence(command: Command): string {
  switch (command.do) {
    case 'checkout': {
      const items = Object.entries(command.items).map(([sku, quantity]) => `${quantity} ${sku}`);
      return `order ${command.order} is to be placed, ${items.join(' and ')}, ${duration(command.windowMs)} to pay${withKey(command)}`;
    }
    case 'pay': {
      const { order, capture, excess } = command;
      const wrong = excess === 0 ? '' : `, ${excess > 0 ? `${excess} too much` : `${-excess} too little`}`;
      return `order ${order} is paid in ${command.currency} by capture ${capture}${wrong}${withKey(command)}`;
    }
    case 'cancel':
      return `the ${command.reason} cancels order ${command.order}`;
    case 'extend':
      return `order ${command.order} is given ${duration(command.byMs)} more`;
    case 'extend to':
      return `order ${command.order} is given time until ${duration(command.inMs)} from now`;
    case 'expire':
      return `the jobs of ${command.orders.map((name) => `order ${name}`).join(' and ')} fire`;
    case 'sweep':
      return `the sweeper looks for ${command.limit}`;
    case 'set stock':
      return `the stock of ${command.sku} is set to ${command.onHand ?? 'uncounted'}`;
    case 'adjust stock':
      return `the stock of ${command.sku} is changed by ${command.by}`;
    case 'freeze':
      return `freeze ${command.freeze} begins`;
    case 'thaw':
      return `freeze ${command.freeze} is to thaw`;
    case 'thaw step':
      return `the thaw goes on with up to ${command.limit}`;
    case 'pass':
      return `${duration(command.ms)} pass`;
    case 'pass to deadline': {
      const { order, plusMs } = command;
      if (plusMs === 0) return `time passes to the deadline of order ${order}`;
      return `time passes to ${duration(Math.abs(plusMs))} ${plusMs < 0 ? 'before' : 'after'} the deadline of order ${order}`;
    }
    case 'purge keys':
      return 'old idempotency keys are purged';
  }
}

const withKey = ({ key }: { key: string | null }): string => (key === null ? '' : `, with key ${key}`);

function duration(ms: number): string {
  if (ms !== 0 && ms % 86_400_000 === 0) return `${ms / 86_400_000} d`;
  if (ms !== 0 && ms % 60_000 === 0) return `${ms / 60_000} min`;
  return `${ms} ms`;
}

/** The answer in a few words. */
export function gist({ outcome, answers = {}, deadlines = {}, order, ...rest }: Answer): string {
  return [
    outcome,
    ...Object.entries(answers).map(([name, answer]) => `${name}: ${Object.values(answer).join(' ')}`),
    ...Object.entries(deadlines).map(([name, deadlineAt]) => `${name} until ${deadlineAt}`),
    ...(order === undefined ? [] : [`order ${order.name} ${order.status}, deadline ${order.deadlineAt}`]),
    ...Object.entries(rest).map(([name, detail]) => `${name} ${JSON.stringify(detail)}`),
  ].join('; ');
}
