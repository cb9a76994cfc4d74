import { setTimeout as delay } from 'node:timers/promises';
import { formatDuration, parseDuration, type Orders } from '@lapse/orders';
import { OperatorError } from '@lapse/runtime';

/** How often progress is told, ms. */
const tellEveryMs = 5000;

/**
 * `lapse reconcile`: has the workers ask a provider about every attempt that has not ended, and every refund whose end it
 * has not told. Waits until every attempt has an answer, and says which. Interrupting it undoes nothing.
 *
 * @param since only attempts opened, and refunds sent, within; undefined: all
 */
export async function reconcile(orders: Orders, provider: string, since: string | undefined): Promise<void> {
  const sinceMs = since === undefined ? null : (parseDuration(since) ?? 0);
  if (sinceMs !== null && sinceMs <= 0)
    throw new OperatorError(`--since ${since}: write a number and s, m, h or d, 2h for example.`);
  const known = await orders.attemptProviders();
  if (!known.includes(provider)) {
    const others = known.length === 0 ? 'nor with any other' : `but with ${known.join(', ')}`;
    throw new OperatorError(`--provider ${provider}: there never was an attempt with it, ${others}.`);
  }
  const asked = await orders.requestReconcile({ provider, sinceMs });
  if (asked.refundCount > 0)
    console.log(`The workers ask ${provider} about ${some(asked.refundCount, 'refund')} that it took, too.`);
  if (asked.attemptCount === 0) {
    const which = sinceMs === null ? '' : ` that was opened within ${formatDuration(sinceMs)}`;
    console.log(`No attempt with ${provider}${which} is open.`);
    return;
  }
  console.log(
    `Waiting for the workers to ask ${provider} about ${some(asked.attemptCount, 'attempt')}. Ctrl-C leaves them at it.`,
  );
  console.log(summary(provider, await untilAnswered(asked)));
}

const some = (count: number, what: string): string => `${count} ${what}${count === 1 ? '' : 's'}`;

type Asked = Awaited<ReturnType<Orders['requestReconcile']>>;
type Answers = Awaited<ReturnType<Asked['answers']>>;

async function untilAnswered({ attemptCount, answers }: Asked): Promise<Answers> {
  const startedAt = Date.now();
  let toldAt = startedAt;
  for (;;) {
    const all = await answers();
    if (all.waiting === 0) return all;
    if (Date.now() - toldAt > tellEveryMs) {
      toldAt = Date.now();
      const hint = all.waiting === attemptCount ? '; does a worker run?' : '';
      console.log(`  ${all.waiting} are left after ${Math.round((toldAt - startedAt) / 1000)} s${hint}`);
    }
    await delay(200);
  }
}

function summary(provider: string, { ended, open, processing, unknown }: Answers): string {
  const lines = [
    `${provider} was asked about all of them:`,
    `  ${ended} have ended, how stands in the stories of their orders`,
    `  ${open} are open still, nobody has paid`,
    `  ${processing} are processing, their money is on its way`,
    `  ${unknown} got no answer`,
  ];
  if (unknown > 0) lines.push('The workers go on asking; the console lists these under Held.');
  return lines.join('\n');
}
