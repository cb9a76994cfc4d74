import type { Deadlines } from '@lapse/deadlines';
import type { Orders } from '@lapse/orders';
import { periodic, type Log, type Service } from '@lapse/runtime';

/** How often a thaw is looked for, ms. */
const lookEveryMs = 500;

/** Orders that are moved in one transaction. */
const pageSize = 1000;

/** While a thaw waits for old transactions, the orders it has passed are looked at again this often, ms. */
const lookAgainEveryMs = 10_000;

/** How long a process that has just started waits for its connection to Redis before it moves a page, ms. */
const redisPatienceMs = 3000;

/**
 * Moves the deadlines of a thaw, page by page, and arms them. Every worker tries; one at a time does it, and where one
 * dies the next goes on with the rows that are left. A page that was moved but not armed is the sweeper's.
 */
export function thaw(options: { orders: Orders; deadlines: Deadlines; log: Log }): Service {
  const { orders, deadlines, log } = options;
  const startedAt = performance.now();
  /** Where the last step ended, and when the orders before it are looked at again. */
  let from: Date | undefined;
  let lookAgainAt = 0;
  const isConnecting = async (): Promise<boolean> =>
    performance.now() - startedAt < redisPatienceMs && !(await deadlines.reachable());
  return periodic({
    name: 'thaw',
    everyMs: lookEveryMs,
    log,
    async task(stopped) {
      if (await isConnecting()) return;
      if (performance.now() >= lookAgainAt) {
        from = undefined;
        lookAgainAt = performance.now() + lookAgainEveryMs;
      }
      while (!stopped.aborted) {
        const step = await orders.thawStep(pageSize, from);
        if (step.state === 'done') log.info({ freezeId: step.freezeId }, 'freeze ended');
        if (step.state === 'done' || step.state === 'idle') from = undefined;
        if (step.state !== 'moved') return;
        from = step.through;
        const { armed, failed } = await deadlines.armMany(step.deadlines);
        await deadlines.armReminders(
          step.deadlines.flatMap(({ orderId, remindAt }) =>
            remindAt === null ? [] : [{ orderId, remindAt }],
          ),
        );
        log.info({ movedCount: step.deadlines.length, armed, failed }, 'frozen deadlines moved');
      }
    },
  });
}
