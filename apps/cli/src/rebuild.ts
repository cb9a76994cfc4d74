import { setTimeout as delay } from 'node:timers/promises';
import type { Orders } from '@lapse/orders';
import { OperatorError } from '@lapse/runtime';

/** `lapse rebuild`: asks for it and waits until the workers are done. Interrupting it does not interrupt them. */
export async function rebuildDeadlines(orders: Orders, actor: string): Promise<void> {
  const asked = await orders.requestRebuild({ reason: 'by hand', actor, partitions: null });
  if (asked === undefined) throw new OperatorError('A rebuild is under way already.');
  console.log('Waiting for the workers to arm every pending deadline. Ctrl-C leaves them at it.');
  const startedAt = Date.now();
  let toldAt = startedAt;
  for (;;) {
    const { armedCount = 0, doneAt = null } = (await orders.findRebuild(asked.id)) ?? {};
    const tookMs = Date.now() - startedAt;
    if (doneAt !== null) {
      console.log(`Armed ${armedCount} deadlines in ${tookMs} ms.`);
      return;
    }
    if (Date.now() - toldAt > 2000) {
      toldAt = Date.now();
      const hint = armedCount === 0 ? '; does a worker run, and Redis?' : '';
      console.log(`  ${armedCount} armed after ${Math.round(tookMs / 1000)} s${hint}`);
    }
    await delay(100);
  }
}
