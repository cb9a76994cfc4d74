import type { Deadlines } from '@lapse/deadlines';
import type { ActiveBrake, Freeze, Orders } from '@lapse/orders';
import { Router } from 'express';
import { boardUrl, type Board } from '../board.ts';
import { count, duration, orderLine } from '../present.ts';
import { scopeText } from '../present-money.ts';
import type { Views } from '../views.ts';

const newestCount = 10;
const states = ['delayed', 'waiting', 'active', 'completed', 'failed'] as const;

/** Most freezes that are read. All are announced: none that is on may be hidden. */
const mostFreezes = 1000;

/** From this age on money on the work list waits for too long, ms. */
const longOnListMs = 86_400_000;

/** How far overdue orders, refunds and attempts are counted. */
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
    const [backlog, freezes, brake, held, alarms, refunds, work, newest, depths] = await Promise.all([
      orders.backlog(),
      orders.activeFreezes(mostFreezes),
      orders.activeBrake(),
      orders.heldAttempts(),
      orders.attemptAlarms(),
      orders.openRefunds(),
      orders.workSize(),
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
        freezes: freezes.map(freezeBanner),
        clock: clockOf(freezes, brake),
        brake: brake && brakeBanner(brake),
        held: {
          unknown: upToMost(held.unknown),
          processing: upToMost(held.processing),
          tooLong: alarms.processing > 0 ? upToMost(alarms.processing) : null,
          isAlarm: alarms.unknown + alarms.processing > 0,
        },
        refunds: {
          open: upToMost(refunds.due + refunds.sent),
          due: upToMost(refunds.due),
          sent: upToMost(refunds.sent),
          oldest: refunds.due + refunds.sent > 0 ? duration(refunds.oldestMs) : null,
        },
        work: {
          count: upToMost(work.count),
          oldest: work.count > 0 ? duration(work.oldestMs) : null,
          isLong: work.oldestMs > longOnListMs,
        },
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

function upToMost(counted: number): string {
  return counted >= mostCounted ? `${count(mostCounted)} or more` : count(counted);
}

/** Whether the clock runs, in a word. */
function clockOf(freezes: readonly Freeze[], brake: ActiveBrake | undefined): string {
  const isFrozen = freezes.filter(({ state }) => state === 'frozen');
  if (isFrozen.some(({ scope }) => scopeText(scope) === null)) return 'frozen';
  if (brake !== undefined) return 'held';
  if (isFrozen.length > 0) return 'partly frozen';
  return freezes.length > 0 ? 'thawing' : 'running';
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
export function freezeBanner({ state, scope, frozenAt, thawingAt, reason, actor }: Freeze) {
  const isThawing = state === 'thawing';
  return { isThawing, scope: scopeText(scope), since: thawingAt ?? frozenAt, reason, actor };
}
