import { setTimeout as sleep } from 'node:timers/promises';
import type { AsyncCommand } from 'fast-check';
import { expect } from 'vitest';
import { expectConsistent } from '../testing.ts';
import { gist, inDatabase, inModel, isPossible, sentence, type Command } from './commands.ts';
import type { Answer, Shop } from './shop.ts';
import { factsOf, type Stage } from './stage.ts';

/** A story as it goes: the model beside the database, and what was told so far. */
export interface Told {
  shop: Shop;
  readonly lines: string[];
}

/** All rows are compared after so many commands, and at the end. */
const compareEvery = 10;

/** How often each command was answered with what, in all stories. */
export const met = new Map<string, number>();

/** A command for fast-check, which does it in both and compares the answers. */
export class Move implements AsyncCommand<Told, Stage> {
  readonly command: Command;
  constructor(command: Command) {
    this.command = command;
  }

  check({ shop }: Readonly<Told>): boolean {
    return isPossible(shop, this.command);
  }

  async run(told: Told, real: Stage): Promise<void> {
    const { command } = this;
    const answer = await answerOf(real, told.shop, command);
    const [after, expected] = inModel(told.shop, command, answer);
    told.shop = after;
    told.lines.push(`${sentence(command)} → ${gist(answer)}`);
    count(command, answer);
    expect(answer, tellOf(told, 'answered otherwise than the model')).toEqual(expected);
    if (told.lines.length % compareEvery === 0) await compare(told, real);
  }

  toString(): string {
    return sentence(this.command);
  }
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

function count(command: Command, { outcome, answers, replayed }: Answer): void {
  const outcomes =
    outcome === 'judged' ? Object.values(answers ?? {}).map(({ answer }) => answer) : [outcome];
  for (const each of outcomes) {
    const name = `${command.do}: ${each}${replayed === true ? ' again' : ''}`;
    met.set(name, (met.get(name) ?? 0) + 1);
  }
}
