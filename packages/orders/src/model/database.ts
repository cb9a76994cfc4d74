import { createHash } from 'node:crypto';
import type { ExpireAnswer as RealExpireAnswer, RemindAnswer as RealRemindAnswer } from '../index.ts';
import type { PayRequest } from '../pay-decide.ts';
import { currency, inModel, itemsOf, keyOf, moneyOf, type Command } from './commands.ts';
import type { Key } from './model.ts';
import type { Answer, Shop } from './shop.ts';
import type { Names, Stage } from './stage.ts';

const actor = 'test';

/** Tells the answer in the model's words, once the names of everything are known. */
type Told = () => Answer;

/**
 * Does a command in the database.
 *
 * @param shop the model before it: what an order costs, what time it is
 */
export async function inDatabase(stage: Stage, shop: Shop, command: Command): Promise<Told> {
  const { orders, names } = stage;
  switch (command.do) {
    case 'checkout': {
      const { order: name, channel, method, windowMs } = command;
      const answer = await orders.checkout({
        reference: `order ${name}`,
        channel,
        paymentMethod: method,
        currency,
        items: itemsOf(command.items),
        paymentWindowMs: windowMs ?? undefined,
        metadata: {},
        actor,
        idempotency: hashed('checkout', keyOf(command)),
      });
      if (answer.outcome !== 'placed') return () => ({ ...answer });
      if (!answer.replayed) names.orders.give(name, answer.order.id);
      return () => ({ ...answer, order: names.order(answer.order) });
    }
    case 'pay': {
      const { order } = command;
      const idempotency = hashed('pay', keyOf(command));
      return pay(stage, { ...paymentOf(shop, command), orderId: names.orders.idOf(order), idempotency });
    }
    case 'attempt pays': {
      const { order } = moneyOf(shop, command);
      const attemptId = names.attempts.idOf(command.attempt);
      return pay(stage, { ...paymentOf(shop, command), orderId: names.orders.idOf(order), attemptId });
    }
    case 'begin attempt':
    case 'opened':
    case 'verdict':
      return doWithAttempt(stage, command);
    case 'refund verdict':
    case 'resolve':
      return doWithPayment(stage, command);
    case 'cancel': {
      const { order, reason } = command;
      const answer = await orders.cancel({ orderId: names.orders.idOf(order), reason, actor });
      return () => ('order' in answer ? { ...answer, order: names.order(answer.order) } : { ...answer });
    }
    case 'extend':
    case 'extend to': {
      const to = command.do === 'extend' ? command : { deadlineAt: names.dateOf(shop.clock + command.inMs) };
      const answer = await orders.extend({ orderId: names.orders.idOf(command.order), to, actor });
      const { outcome } = answer;
      return () => ('order' in answer ? { outcome, order: names.order(answer.order) } : { outcome });
    }
    case 'expire': {
      const ids = command.orders.map((name) => names.orders.idOf(name));
      return judged(names, await orders.expire(ids, actor));
    }
    case 'sweep':
      return judged(names, await orders.sweep(command.limit, actor));
    case 'remind': {
      const ids = command.orders.map((name) => names.orders.idOf(name));
      return judged(names, await orders.remind(ids, actor));
    }
    case 'sweep reminders':
      return judged(names, await orders.sweepReminders(command.limit, actor));
    case 'set stock':
    case 'adjust stock': {
      const answer =
        command.do === 'set stock'
          ? await orders.setStock(command.sku, command.onHand)
          : await orders.adjustStock(command.sku, command.by);
      return () => ({ ...answer });
    }
    case 'freeze':
    case 'thaw':
    case 'thaw step':
      return doWithFreeze(stage, command);
    case 'pass':
    case 'pass to expiry':
    case 'pass to reminder': {
      await stage.setClock(inModel(shop, command)[0].clock);
      return () => ({ outcome: 'passed' });
    }
    case 'purge keys': {
      const { purgedCount: count } = await orders.purgeIdempotencyKeys({ from: 0, count: 1000 });
      return () => ({ outcome: 'purged', count });
    }
  }
}

function paymentOf(
  shop: Shop,
  command: Extract<Command, { do: 'pay' | 'attempt pays' }>,
): Omit<PayRequest, 'orderId'> {
  const { order: _, capture: providerPaymentId, ...money } = moneyOf(shop, command);
  return { ...money, providerPaymentId, actor };
}

async function pay({ orders, names }: Stage, request: PayRequest): Promise<Told> {
  const answer = await orders.pay(request);
  const { outcome } = answer;
  if (!('payment' in answer)) return () => ({ outcome });
  names.payments.give(request.providerPaymentId, answer.payment.id);
  const payment = () => names.payment(answer.payment);
  if (!('order' in answer)) return () => ({ outcome, payment: payment() });
  return () => ({ outcome, order: names.order(answer.order), payment: payment() });
}

async function doWithAttempt(
  { orders, names }: Stage,
  command: Extract<Command, { do: 'begin attempt' | 'opened' | 'verdict' }>,
): Promise<Told> {
  const { attempt: name } = command;
  switch (command.do) {
    case 'begin attempt': {
      const orderId = names.orders.idOf(command.order);
      const { provider } = command;
      const answer = await orders.beginAttempt({
        orderId,
        provider,
        handOffAs: 'url',
        returnUrl: null,
        actor,
      });
      const { outcome } = answer;
      if (!('order' in answer)) return () => ({ outcome });
      if (!('attempt' in answer)) return () => ({ outcome, order: names.order(answer.order) });
      const { id } = answer.attempt;
      // One that was there before is named.
      if (!names.attempts.knows(id)) names.attempts.give(name, id);
      return () => ({ outcome, order: names.order(answer.order), attempt: names.attempts.nameOf(id) });
    }
    case 'opened': {
      const attemptId = names.attempts.idOf(name);
      const providerAttemptId = `page of ${attemptId}`;
      const attempt = await orders.recordOpened({ attemptId, providerAttemptId, handOff: {} });
      return () => ({ outcome: attempt?.state ?? 'attempt_not_found' });
    }
    case 'verdict': {
      const { said } = command;
      const answer = await orders.recordVerdict({
        attemptId: names.attempts.idOf(name),
        verdict: said,
        actor,
      });
      const { outcome } = answer;
      return () => ('isDue' in answer ? { outcome, isDue: answer.isDue } : { outcome });
    }
  }
}

async function doWithPayment(
  { orders, names, database }: Stage,
  command: Extract<Command, { do: 'refund verdict' | 'resolve' }>,
): Promise<Told> {
  const paymentId = names.payments.idOf(command.capture);
  if (command.do === 'resolve') {
    const { resolution } = command;
    const answer = await orders.decideWork({ paymentId, resolution, note: null, actor });
    return () =>
      'payment' in answer ? { ...answer, payment: names.payment(answer.payment) } : { ...answer };
  }
  const { said: state, isFormer } = command;
  const { rows } = await database.query<{ id: string; former: string | null }>(
    'select id, former_ids[cardinality(former_ids)] as former from refunds where payment_id = $1',
    [paymentId],
  );
  const refundId = (isFormer ? rows[0]?.former : rows[0]?.id) ?? '';
  const outcome = await orders.recordRefund(
    { refundId },
    state === 'sent' || state === 'confirmed'
      ? { state, providerRefundId: `return of ${refundId}`, actor }
      : { state, reason: 'so it says', actor },
  );
  return () => ({ outcome: outcome ?? 'nothing' });
}

async function doWithFreeze(
  { orders, names }: Stage,
  command: Extract<Command, { do: 'freeze' | 'thaw' | 'thaw step' }>,
): Promise<Told> {
  switch (command.do) {
    case 'freeze': {
      const { id } = await orders.freeze({ reason: command.freeze, actor, scope: command.scope });
      names.freezes.give(command.freeze, id);
      return () => ({ outcome: 'frozen' });
    }
    case 'thaw': {
      const thawing = await orders.thaw(names.freezes.idOf(command.freeze), actor);
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
        case 'moved': {
          const deadlines = () =>
            step.deadlines.map(({ orderId, expireAt }) => {
              return [names.orders.nameOf(orderId), names.msOf(expireAt)] as const;
            });
          return () => ({ outcome: 'moved', deadlines: Object.fromEntries(deadlines()) });
        }
      }
    }
  }
}

/** Who of those that find an order closing is to ask its providers is a matter of the workers. */
const judged =
  (names: Names, answers: ReadonlyMap<string, RealExpireAnswer | RealRemindAnswer>): Told =>
  () => ({
    outcome: 'judged',
    answers: Object.fromEntries(
      Array.from(answers, ([id, answer]) => [
        names.orders.nameOf(id),
        answer.answer === 'closing' ? { answer: answer.answer } : answer,
      ]),
    ),
  });

function hashed(scope: string, key: Key | undefined): PayRequest['idempotency'] {
  if (key === undefined) return undefined;
  return { scope, key: key.key, bodyHash: createHash('sha256').update(key.body).digest() };
}
