import { setTimeout as delay } from 'node:timers/promises';
import { formatDuration, parseDuration, type Orders } from '@lapse/orders';
import { OperatorError } from '@lapse/runtime';

/** How often progress is told, ms. */
const tellEveryMs = 5000;

/**
 * `lapse reconcile`: has the workers ask a provider about every attempt that has not ended, and waits until they have
 * begun with the last one. Interrupting it undoes nothing.
 */
export async function reconcile(orders: Orders, provider: string, since: string): Promise<void> {
  const sinceMs = parseDuration(since) ?? 0;
  if (sinceMs <= 0)
    throw new OperatorError(`--since ${since}: write a number and s, m, h or d, 2h for example.`);
  const known = await orders.attemptProviders();
  if (!known.includes(provider)) {
    const others = known.length === 0 ? 'nor with any other' : `but with ${known.join(', ')}`;
    throw new OperatorError(`--provider ${provider}: there never was an attempt with it, ${others}.`);
  }
  const count = await orders.requestReconcile({ provider, sinceMs });
  if (count === 0) {
    console.log(
      `No attempt with ${provider} was opened within ${formatDuration(sinceMs)} and is open still.`,
    );
    return;
  }
  console.log(
    `Waiting for the workers to ask ${provider} about ${count} attempts. Ctrl-C leaves them at it.`,
  );
  const startedAt = Date.now();
  let toldAt = startedAt;
  for (let left = count; left > 0; left = await orders.dueAskCount(provider)) {
    if (Date.now() - toldAt > tellEveryMs) {
      toldAt = Date.now();
      const hint = left === count ? '; does a worker run?' : '';
      console.log(`  ${left} are left after ${Math.round((toldAt - startedAt) / 1000)} s${hint}`);
    }
    await delay(200);
  }
  console.log(`${provider} was asked about all of them. What it said of each stands in its order's story.`);
}
