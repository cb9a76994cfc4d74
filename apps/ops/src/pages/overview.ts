import type { Deadlines } from '@lapse/deadlines';
import type { ActiveBrake, Freeze, Orders } from '@lapse/orders';
import { Router } from 'express';
import { boardUrl, type Board } from '../board.ts';
import { count, duration, orderLine } from '../present.ts';
import type { Views } from '../views.ts';

const newestCount = 10;
const states = ['delayed', 'waiting', 'active', 'completed', 'failed'] as const;

/** How far overdue orders are counted. */
const mostCounted = 10_000;

/** The first page: does the clock run, is expiry behind, what came in last. */
export function overviewPage(options: {
  orders: Orders;
  deadlines: Deadlines;
  board: Board;
  views: Views;
}): Router {
  const { orders, deadlines, board, views } = options;
  const router = Router();

  router.get('/', async (_request, response) => {
    const partitions = board.partitions();
    const [backlog, freeze, brake, newest, depths] = await Promise.all([
      orders.backlog(),
      orders.activeFreeze(),
      orders.activeBrake(),
      orders.list({ limit: newestCount }),
      deadlines.depths(partitions).catch(() => undefined),
    ]);
    const { overdueCount } = backlog;
    const delayedCount = depths?.values().reduce((sum, { delayed }) => sum + delayed, 0);
    response.send(
      views.render('overview', {
        now: new Date(),
        overdue: upToMost(overdueCount),
        isOverdue: overdueCount > 0,
        oldestOverdue: duration(backlog.oldestOverdueMs),
        freeze: freeze && freezeBanner(freeze),
        brake: brake && brakeBanner(brake),
        delayed: delayedCount === undefined ? undefined : count(delayedCount),
        states,
        partitions: partitions.map((partition) => ({
          partition,
          cells: states.map((state) => {
            const jobs = depths?.get(partition)?.[state];
            return {
              state,
              jobs: jobs === undefined ? '–' : count(jobs),
              url: boardUrl(partition, state),
              isBad: state === 'failed' && jobs !== undefined && jobs > 0,
            };
          }),
        })),
        isRedisReachable: depths !== undefined,
        newest: newest.orders.map(orderLine),
      }),
    );
  });

  return router;
}

function upToMost(orderCount: number): string {
  return orderCount >= mostCounted ? `${count(mostCounted)} or more` : count(orderCount);
}

/** What a page says about a brake that holds orders. */
export function brakeBanner(brake: ActiveBrake) {
  const { state, frozenAt, reason, heldCount, releasedBy, thawingAt } = brake;
  const isReleased = state === 'thawing';
  return {
    isReleased,
    since: frozenAt,
    reason,
    held: upToMost(heldCount),
    releasedBy,
    releasedAt: thawingAt,
  };
}

/** What a page says about a freeze that is not done. */
export function freezeBanner({ state, frozenAt, thawingAt, reason, actor }: Freeze) {
  return { isThawing: state === 'thawing', since: thawingAt ?? frozenAt, frozenAt, reason, actor };
}
