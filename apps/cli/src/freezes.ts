import { setTimeout as delay } from 'node:timers/promises';
import type { Freeze, FreezeScope, Orders } from '@lapse/orders';
import { OperatorError } from '@lapse/runtime';

/** How many freezes are listed, besides those that are not done. */
const listedCount = 50;

/** Those that are not done. */
const activeFreezes = (orders: Orders): Promise<Freeze[]> => orders.activeFreezes(Number.MAX_SAFE_INTEGER);

/** `lapse freeze`. */
export async function freezeClock(
  orders: Orders,
  { reason, scope, actor }: { reason: string; scope: FreezeScope; actor: string },
): Promise<void> {
  if (reason.trim() === '') {
    throw new OperatorError(
      '--reason must say something: why the clock stands still, for those who find it.',
    );
  }
  const { id, frozenAt } = await orders.freeze({ reason, scope, actor });
  console.log(
    `Frozen since ${frozenAt.toISOString()}: ${scopeName(scope)}. None of it is cancelled for time until:\n  lapse thaw ${id}`,
  );
}

function scopeName({ channel, paymentMethod, provider }: FreezeScope): string {
  const names = [
    channel === undefined ? [] : `channel ${channel}`,
    paymentMethod === undefined ? [] : `payment method ${paymentMethod}`,
    provider === undefined ? [] : `provider ${provider}`,
  ].flat();
  return names.length === 0 ? 'every order' : `orders of ${names.join(' and ')}`;
}

/** `lapse thaw`: waits until the workers have moved every deadline. Interrupting it does not interrupt them. */
export async function thawClock(
  orders: Orders,
  { id, actor }: { id: string | undefined; actor: string },
): Promise<void> {
  const frozen = (await activeFreezes(orders)).filter(({ state }) => state === 'frozen');
  const chosen = id === undefined ? frozen : frozen.filter((freeze) => freeze.id === id);
  if (chosen.length === 0) {
    throw new OperatorError(
      id === undefined ? 'Nothing is frozen.' : `There is no freeze ${id}, or it is thawed already.`,
    );
  }
  for (const freeze of chosen) {
    await orders.thaw(freeze.id, actor);
    console.log(`Thawing ${freeze.id}, frozen since ${freeze.frozenAt.toISOString()}: ${freeze.reason}`);
  }
  await untilMoved(orders, new Set(chosen.map((freeze) => freeze.id)));
}

async function untilMoved(orders: Orders, ids: ReadonlySet<string>): Promise<void> {
  console.log('Waiting for the workers to move the deadlines. Ctrl-C leaves them at it.');
  const startedAt = Date.now();
  let toldAt = startedAt;
  for (;;) {
    const active = await activeFreezes(orders);
    if (!active.some(({ id }) => ids.has(id))) break;
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
  const freezes = await orders.freezes(listedCount);
  if (freezes.length === 0) console.log('There never was a freeze.');
  for (const { id, kind, state, scope, frozenAt, thawingAt, reason, actor, releasedBy } of freezes) {
    const until = thawingAt === null ? '…' : thawingAt.toISOString();
    const who = releasedBy === null ? actor : `${actor}, then ${releasedBy}`;
    const what = kind === 'brake' ? `brake: ${reason}` : `${scopeName(scope)}: ${reason}`;
    console.log(`${id}  ${state.padEnd(8)}  ${frozenAt.toISOString()} – ${until}  ${what} (${who})`);
  }
}
