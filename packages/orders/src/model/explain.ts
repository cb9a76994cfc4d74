import { isDeepStrictEqual } from 'node:util';
import { inModel, type Command } from './commands.ts';
import { showOrder, showPayment, type Answer, type Event, type Shop } from './shop.ts';
import { factsOf, type Facts } from './stage.ts';

/**
 * What the model has after a command that was answered like this, undefined where it cannot be. At once, sweepers
 * leave what others work on, and a step of a thaw may find nothing to do.
 */
function afterAnswer(
  shop: Shop,
  command: Command,
  answer: Answer,
): [after: Shop, isEarly: boolean] | undefined {
  if (command.do === 'thaw step' && ['idle', 'waiting'].includes(answer.outcome)) return [shop, false];
  if (isDeepStrictEqual(answer, { outcome: 'moved', deadlines: {} })) return [shop, false];
  const [next, expected] = inModel(shop, whatWasFound(command, answer), answer);
  if (isDeepStrictEqual(withoutHeld(command, answer), expected)) return [next, false];
  const isPayment = command.do === 'pay' || command.do === 'attempt pays';
  return isPayment && isDeepStrictEqual(withoutState(answer), withoutState(expected))
    ? [next, true]
    : undefined;
}

function whatWasFound(command: Command, answer: Answer): Command {
  const orders = Object.keys(withoutHeld(command, answer).answers ?? {});
  if (command.do === 'sweep') return { do: 'expire', orders };
  return command.do === 'remind' ? { do: 'remind', orders } : command;
}

/** Who looks after reminders leaves what others work on, and looks again in a second. */
function withoutHeld(command: Command, answer: Answer): Answer {
  if (command.do !== 'remind') return answer;
  const answers = Object.entries(answer.answers ?? {}).filter(([, { remainingMs }]) => remainingMs !== 1000);
  return { ...answer, answers: Object.fromEntries(answers) };
}

const withoutState = ({ order, payment, ...answer }: Answer): object => ({
  ...answer,
  order: order?.name,
  payment: payment?.capture,
});

/** A command and what it was answered. */
export type Answered = readonly [command: Command, answer: Answer];

/** Whether the model shows the order and the payment like this. */
const shows = (shop: Shop, { order, payment }: Answer): boolean =>
  (order === undefined ||
    (order.name in shop.orders && isDeepStrictEqual(showOrder(shop, order.name), order))) &&
  (payment === undefined ||
    (payment.capture in shop.payments && isDeepStrictEqual(showPayment(shop, payment.capture), payment)));

const place = ({ type, listedFor }: Partial<Event>): number => {
  if (type === 'attempt.paid') return 1;
  return listedFor === 'restated' || listedFor === 'conflict' ? 2 : 0;
};

/**
 * The facts, but for this: of payments that are committed together, it is told of all of them at first which attempts they
 * ended, and at last about which of them a person is to decide again.
 */
function withoutOrder(facts: Facts): Facts {
  const stories = Object.entries(facts.stories).map(([name, story]) => {
    return [name, story.toSorted((a, b) => place(a) - place(b))] as const;
  });
  return { ...facts, stories: Object.fromEntries(stories) };
}

/**
 * Looks for an order of the commands in which the model gives these answers and ends with these rows.
 *
 * @param early payments whose answers show the order as it is only after a later command: payments are committed
 *   together, and all are shown what the commit left
 * @returns the model at the end, undefined where there is no such order
 */
export function explain(
  shop: Shop,
  answered: readonly Answered[],
  facts: Facts,
  early: readonly Answer[] = [],
): Shop | undefined {
  const stillEarly = early.filter((answer) => !shows(shop, answer));
  if (answered.length === 0)
    return stillEarly.length === 0 && isDeepStrictEqual(withoutOrder(factsOf(shop)), withoutOrder(facts))
      ? shop
      : undefined;
  for (const [n, [command, answer]] of answered.entries()) {
    const [next, isEarly] = afterAnswer(shop, command, answer) ?? [];
    if (next === undefined) continue;
    const left = answered.toSpliced(n, 1);
    const end = explain(next, left, facts, isEarly ? [...stillEarly, answer] : stillEarly);
    if (end !== undefined) return end;
  }
  return undefined;
}
