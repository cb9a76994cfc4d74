import { setTimeout as delay } from 'node:timers/promises';
import { parseDuration, type Freeze, type Orders } from '@lapse/orders';
import { OperatorError } from '@lapse/runtime';

/** How often progress is told, ms. */
const tellEveryMs = 5000;

const leastMs = 1000;
const mostMs = 90 * 86_400_000;

/**
 * Reads a duration such as `90s`, `15m`, `2h` or `1d`.
 *
 * @returns ms
 * @throws OperatorError for anything else, and outside of 1 s to 90 days
 */
function parseExtension(text: string): number {
  const ms = parseDuration(text) ?? 0;
  if (ms >= leastMs && ms <= mostMs) return ms;
  throw new OperatorError(
    `--extend ${text}: write a number and s, m, h or d, from 1s to 90d; 15m for example.`,
  );
}

/** `lapse resume`: releases the brake, and waits until the backlog is gone. Interrupting it undoes nothing. */
export async function resumeExpiry(
  orders: Orders,
  extension: string | undefined,
  actor: string,
): Promise<void> {
  const extendMs = extension === undefined ? null : parseExtension(extension);
  const held = (await orders.activeBrake())?.heldCount ?? 0;
  const answer = await orders.resume({ actor, extendMs });
  if (answer.outcome === 'not_held') {
    // Released already is what was wished for; but nobody got this extension.
    if (extendMs !== null) throw new OperatorError('Expiry is not held, so there is nothing to extend.');
    console.log('Expiry is not held: there is nothing to release.');
    return;
  }
  const { brake } = answer;
  console.log(
    answer.outcome === 'resumed'
      ? `Released the brake of ${brake.frozenAt.toISOString()}: ${brake.reason}.`
      : `Released already, at ${brake.thawingAt?.toISOString()} by ${brake.releasedBy}; this changes nothing.`,
  );
  if (brake.extendMs === null) await untilDrained(orders, held);
  else await untilExtended(orders, brake, brake.extendMs);
}

async function untilExtended(orders: Orders, brake: Freeze, extendMs: number): Promise<void> {
  const until = new Date((brake.thawingAt?.getTime() ?? 0) + extendMs);
  console.log(
    `Every order that was overdue has until ${until.toISOString()}; nothing is cancelled before it has that.`,
  );
  console.log('Waiting for the workers to move the deadlines. Ctrl-C leaves them at it.');
  await untilNothing(async () => {
    const active = await orders.activeBrake();
    return active?.id === brake.id && active.state === 'thawing' ? active.heldCount : undefined;
  }, 'to be moved');
  console.log('Every deadline has moved. Expiry goes on.');
}

async function untilDrained(orders: Orders, held: number): Promise<void> {
  console.log(
    `${atMost(held)} overdue orders are cancelled now, unless they are paid before it is their turn.`,
  );
  if ((await orders.activeFreeze()) !== undefined) {
    console.log('But a freeze is on: the orders in its scope wait for `lapse thaw`.');
    return;
  }
  console.log('Waiting for the workers. Ctrl-C leaves them at it.');
  const releasedAt = performance.now();
  await untilNothing(async () => {
    const { overdueCount, oldestOverdueMs } = await orders.backlog();
    // The oldest one fell due after the release: those before it are gone.
    return oldestOverdueMs < performance.now() - releasedAt ? undefined : overdueCount;
  }, 'to be cancelled');
  console.log('The backlog is gone. Expiry goes on.');
}

/** Waits until nothing is left, and tells how much is. */
async function untilNothing(readLeft: () => Promise<number | undefined>, what: string): Promise<void> {
  const startedAt = Date.now();
  let toldAt = startedAt;
  for (;;) {
    const left = await readLeft();
    if (left === undefined) return;
    if (Date.now() - toldAt > tellEveryMs) {
      toldAt = Date.now();
      const seconds = Math.round((toldAt - startedAt) / 1000);
      console.log(`  after ${seconds} s ${atMost(left)} are still ${what}; does a worker run?`);
    }
    await delay(200);
  }
}

/** Counts end at 10,000. */
const atMost = (count: number): string => (count >= 10_000 ? '10,000 or more' : count.toLocaleString('en'));
