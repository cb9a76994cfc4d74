import { checkInvariants } from '../invariants.ts';
import { checkLedger } from './ledger.ts';
import type { Load } from './load.ts';
import type { Unsettled } from './measure.ts';
import type { System } from './system.ts';

/** What a run broke. */
export interface Judgement {
  readonly lostCount: number;
  readonly wrongCount: number;
  readonly duplicatedCount: number;
  /** Everything that is not as it should be; of each kind a few examples. */
  readonly breaches: readonly string[];
}

/** Most examples of a kind of breach that are told. */
const mostExamples = 5;

/** Checks the rows against the invariants, against what customers were told, and against the books of the providers. */
export async function judge(
  { database, services, crashes }: System,
  load: Load,
  { pendingOrders, openAttempts, openRefunds }: Unsettled,
): Promise<Judgement> {
  const invariants = await checkInvariants(database);
  const { lost, wrong, duplicated } = await checkLedger(load.ledger, services.books(), database);
  const breaches = invariants.flatMap(({ name, breachCount, examples }) =>
    breachCount === 0 ? [] : [`invariant broken ${breachCount} times: ${name}`, ...examples],
  );
  breaches.push(...some('lost', lost), ...some('wrong', wrong), ...some('duplicated', duplicated));
  breaches.push(...some('unexpected', load.unexpected), ...some('crashed', crashes));
  breaches.push(...some('never had an answer', load.givenUp));
  if (pendingOrders > 0) breaches.push(`${pendingOrders} orders are still pending`);
  if (openAttempts > 0) breaches.push(`${openAttempts} payment attempts are still open`);
  if (openRefunds > 0) breaches.push(`${openRefunds} refunds have not ended`);
  const { wrongCalls } = services.counts();
  if (wrongCalls > 0) breaches.push(`${wrongCalls} calls to payment providers were not of the protocol`);
  return {
    lostCount: lost.length,
    wrongCount: wrong.length + invariants.reduce((sum, { breachCount }) => sum + breachCount, 0),
    duplicatedCount: duplicated.length,
    breaches,
  };
}

function some(what: string, all: readonly string[]): string[] {
  const told = all.slice(0, mostExamples).map((one) => `${what}: ${one}`);
  return all.length > mostExamples ? [...told, `${what}: ${all.length} in all`] : told;
}
