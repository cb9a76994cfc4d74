import { setTimeout as delay } from 'node:timers/promises';
import type { Orders } from '@lapse/orders';
import { OperatorError } from '@lapse/runtime';

const mostFreezes = 50;

/** `lapse freeze`. */
export async function freezeClock(orders: Orders, reason: string, actor: string): Promise<void> {
  const { id, frozenAt } = await orders.freeze({ reason, actor });
  console.log(
    `Frozen since ${frozenAt.toISOString()}. Nothing is cancelled for time until:\n  lapse thaw ${id}`,
  );
}

/** `lapse thaw`: waits until the workers have moved every deadline. Interrupting it does not interrupt them. */
export async function thawClock(orders: Orders, id: string | undefined): Promise<void> {
  const frozen = (await orders.freezes(mostFreezes)).filter(
    ({ kind, state }) => kind === 'freeze' && state === 'frozen',
  );
  const chosen = id === undefined ? frozen : frozen.filter((freeze) => freeze.id === id);
  if (chosen.length === 0) {
    throw new OperatorError(
      id === undefined ? 'Nothing is frozen.' : `There is no freeze ${id}, or it is thawed already.`,
    );
  }
  for (const freeze of chosen) {
    await orders.thaw(freeze.id);
    console.log(`Thawing ${freeze.id}, frozen since ${freeze.frozenAt.toISOString()}: ${freeze.reason}`);
  }
  await untilMoved(orders, new Set(chosen.map((freeze) => freeze.id)));
}

async function untilMoved(orders: Orders, ids: ReadonlySet<string>): Promise<void> {
  console.log('Waiting for the workers to move the deadlines. Ctrl-C leaves them at it.');
  const startedAt = Date.now();
  let toldAt = startedAt;
  for (;;) {
    const open = (await orders.freezes(mostFreezes)).filter(
      ({ id, state }) => ids.has(id) && state !== 'done',
    );
    if (open.length === 0) break;
    if (Date.now() - toldAt > 5000) {
      toldAt = Date.now();
      console.log(`  still thawing after ${Math.round((toldAt - startedAt) / 1000)} s; does a worker run?`);
    }
    await delay(200);
  }
  console.log('Every deadline has moved by the time it stood still.');
}

/** `lapse freezes`. */
export async function listFreezes(orders: Orders): Promise<void> {
  const freezes = await orders.freezes(mostFreezes);
  if (freezes.length === 0) console.log('There never was a freeze.');
  for (const { id, kind, state, frozenAt, thawingAt, reason, actor } of freezes) {
    const until = thawingAt === null ? '…' : thawingAt.toISOString();
    const what = kind === 'brake' ? `brake: ${reason}` : reason;
    console.log(`${id}  ${state.padEnd(8)}  ${frozenAt.toISOString()} – ${until}  ${what} (${actor})`);
  }
}
