import { setTimeout as sleep } from 'node:timers/promises';
import type { AsyncCommand } from 'fast-check';
import { expect } from 'vitest';
import { expectConsistent } from '../testing.ts';
import { inModel, isPossible, unknownOrder, type Command } from './commands.ts';
import { inDatabase } from './database.ts';
import { isListed, pendingOrders, type Answer, type Attempt, type Shop } from './shop.ts';
import { factsOf, type Stage } from './stage.ts';
import { gist, sentence } from './words.ts';

/** A story as it goes: the model beside the database, and what was told so far. */
export interface Told {
  shop: Shop;
  readonly lines: string[];
}

/** All rows are compared after so many commands, and at the end. */
const compareEvery = 25;

/** How often each command was answered with what, in all stories. */
export const met = new Map<string, number>();

/**
 * A command for fast-check, which does it in both and compares the answers. It is made before its story is known, so where
 * what it names is not there, or cannot be meant, it means something else of the kind.
 */
export class Move implements AsyncCommand<Told, Stage> {
  readonly command: Command;
  constructor(command: Command) {
    this.command = command;
  }

  check({ shop }: Readonly<Told>): boolean {
    return isPossible(shop, meant(shop, this.command));
  }

  async run(told: Told, real: Stage): Promise<void> {
    const { shop: before } = told;
    const command = meant(before, this.command);
    const answer = await answerOf(real, before, command);
    const [after, expected] = inModel(before, command, answer);
    told.shop = after;
    told.lines.push(`${sentence(command)} → ${gist(answer)}`);
    count(command, answer, before);
    expect(answer, tellOf(told, 'answered otherwise than the model')).toEqual(expected);
    if (told.lines.length % compareEvery === 0) await compare(told, real);
  }

  toString(): string {
    return sentence(this.command);
  }
}

function meant(shop: Shop, command: Command): Command {
  const pending = Object.fromEntries(pendingOrders(shop));
  switch (command.do) {
    case 'checkout':
      return { ...command, order: String(Object.keys(shop.orders).length + 1) };
    case 'begin attempt': {
      const attempt = `a${Object.keys(shop.attempts).length + 1}`;
      // Now and then a page that is open is wished for again.
      const again = command.attempt === 'a1' ? Object.values(shop.attempts).findLast(isOpen) : undefined;
      const { order = oneOf(pending, command.order), provider = command.provider } = again ?? {};
      return { ...command, attempt, order, provider };
    }
    case 'extend to': {
      const closing = namesOf(pending, ({ closingAt }) => closingAt !== null);
      const order = oneOf(pending, command.order);
      return { ...command, order: otherwise({}, order, closing) };
    }
    case 'pass to reminder': {
      const ahead = namesOf(pending, ({ remindAt }) => (remindAt ?? 0) > shop.clock);
      return { ...command, order: otherwise({}, command.order, ahead) };
    }
    case 'extend':
    case 'pass to expiry':
      return { ...command, order: oneOf(pending, command.order) };
    case 'cancel':
      return { ...command, order: oneOf(shop.orders, command.order) };
    case 'pay': {
      // Another amount of the same capture, of which its provider knows better.
      const paying = namesOf(shop.payments, ({ outcome, verified }) => outcome === 'paid' && !verified);
      const capture =
        command.excess === 0 ? command.capture : otherwise(shop.payments, command.capture, paying);
      const known = command.excess === 0 ? undefined : shop.payments[capture];
      return { ...command, capture, order: known?.order ?? oneOf(shop.orders, command.order) };
    }
    case 'remind': {
      const due = namesOf(pending, ({ remindAt }) => (remindAt ?? Infinity) <= shop.clock);
      return { ...command, orders: command.orders.map((name) => otherwise({}, name, due)) };
    }
    case 'expire':
      return {
        ...command,
        orders: command.orders.map((name) => otherwise(shop.orders, name, Object.keys(pending))),
      };
    case 'opened': {
      const opening = namesOf(shop.attempts, ({ state }) => state === 'opening');
      return { ...command, attempt: otherwise({}, command.attempt, opening) };
    }
    case 'verdict': {
      const open = namesOf(shop.attempts, isOpen);
      return { ...command, attempt: otherwise(shop.attempts, command.attempt, open) };
    }
    case 'attempt pays':
      return { ...command, attempt: oneOf(shop.attempts, command.attempt) };
    case 'resolve': {
      // Rarest is what was returned in vain and is to be returned again.
      const failed = namesOf(shop.payments, (payment) => isListed(payment) && payment.refund !== null);
      const isAgain = command.resolution === 'refund' && failed.length > 0;
      const listed = isAgain ? failed : namesOf(shop.payments, isListed);
      return { ...command, capture: otherwise({}, command.capture, listed) };
    }
    case 'refund verdict': {
      const going = namesOf(shop.payments, ({ refund }) =>
        command.isFormer ? (refund?.formerCount ?? 0) > 0 && refund?.state === 'due' : refund !== null,
      );
      return { ...command, capture: otherwise({}, command.capture, going) };
    }
    case 'sweep':
    case 'sweep reminders':
    case 'set stock':
    case 'adjust stock':
    case 'freeze':
    case 'thaw':
    case 'thaw step':
    case 'pass':
    case 'purge keys':
      return command;
  }
}

/** The one that is named, or another of them. */
const oneOf = (things: object, name: string): string => otherwise(things, name, Object.keys(things));

const isOpen = ({ endedAt }: Attempt): boolean => endedAt === null;

function namesOf<Thing>(
  things: Readonly<Record<string, Thing>>,
  isMeant: (thing: Thing) => boolean,
): string[] {
  return Object.entries(things).flatMap(([name, thing]) => (isMeant(thing) ? [name] : []));
}

/** What is named, if there is such a thing, else another. */
function otherwise(things: object, name: string, others: readonly string[]): string {
  const number = Number(/\d+/.exec(name)?.[0] ?? 0);
  return name in things || name === unknownOrder ? name : (others[number % others.length] ?? name);
}

/** A thaw waits for transactions from before it, those of other tests on the same server too. */
async function answerOf(real: Stage, shop: Shop, command: Command): Promise<Answer> {
  for (;;) {
    const answer = (await inDatabase(real, shop, command))();
    if (answer.outcome !== 'waiting') return answer;
    await sleep(5);
  }
}

/** Expects that the rows are what the model has, and that no invariant is broken. */
export async function compare(told: Told, real: Stage): Promise<void> {
  expect(await real.facts(), tellOf(told, 'the rows are not what the model has')).toEqual(factsOf(told.shop));
  await expectConsistent(real.database);
}

const tellOf = ({ lines }: Told, what: string): string =>
  `${what}, after\n${lines.map((line, n) => `  ${n + 1}. ${line}`).join('\n')}\n`;

function count(command: Command, { outcome, answers, replayed, order }: Answer, before: Shop): void {
  const isReinstated = order?.status === 'paid' && before.orders[order.name]?.status === 'cancelled';
  const outcomes =
    outcome === 'judged' ? Object.values(answers ?? {}).map(({ answer }) => answer) : [outcome];
  for (const each of outcomes) {
    const how = isReinstated ? 'reinstated' : `${each}${replayed === true ? ' again' : ''}`;
    meet(`${kindOf(command)}: ${how}`);
  }
}

function kindOf(command: Command): string {
  if (command.do === 'verdict') return `verdict ${command.said}`;
  if (command.do === 'resolve') return `resolve ${command.resolution}`;
  if (command.do === 'refund verdict')
    return `${command.isFormer ? 'former refund' : 'refund'} ${command.said}`;
  return command.do === 'extend to' ? 'extend' : command.do;
}

const meet = (name: string): unknown => met.set(name, (met.get(name) ?? 0) + 1);

/** Counts what there is at the end of a story. */
export function countEnd({ shop }: Told): void {
  for (const { listedFor, refund } of Object.values(shop.payments)) {
    if (listedFor !== null) meet(`listed for ${listedFor}`);
    if (refund !== null) meet(`refund by ${refund.actor}`);
  }
}
