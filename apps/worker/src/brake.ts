import type { Orders } from '@lapse/orders';
import { Gauge, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How often the brake is looked for, ms: so late is the alarm at most. */
const lookEveryMs = 1000;

/** How often a brake that stays on is told of again, ms. */
const remindEveryMs = 300_000;

/** Tells that expiry holds by itself, until somebody releases it: in the log, and in the metrics. */
export function brakeAlarm(options: { orders: Orders; log: Log; metrics: Metrics }): Service {
  const { orders, log, metrics } = options;
  const active = new Gauge({
    name: 'lapse_brake_active',
    help: '1 while expiry holds because too much is overdue, until it is released and every extension granted',
    registers: [metrics],
  });
  const held = new Gauge({
    name: 'lapse_held_orders',
    help: 'Overdue orders that the brake holds, counted up to 10,000',
    registers: [metrics],
  });
  let told: { readonly brakeId: string; readonly atMs: number } | undefined;

  return periodic({
    name: 'brake',
    everyMs: lookEveryMs,
    log,
    async task() {
      const brake = await orders.activeBrake();
      active.set(brake === undefined ? 0 : 1);
      held.set(brake?.heldCount ?? 0);
      if (brake?.state === 'frozen') {
        const { id: brakeId, reason, frozenAt, heldCount } = brake;
        if (told?.brakeId === brakeId && performance.now() - told.atMs < remindEveryMs) return;
        told = { brakeId, atMs: performance.now() };
        log.error(
          { brakeId, reason, since: frozenAt, heldCount, release: 'lapse resume [--extend 15m]' },
          'expiry held: too much is overdue',
        );
      } else if (told !== undefined) {
        log.info({ brakeId: told.brakeId }, 'expiry goes on');
        told = undefined;
      }
    },
  });
}

/** What `/readyz` says of the brake. A worker whose expiry is held is ready all the same. */
export async function brakeProblem(orders: Orders): Promise<string | undefined> {
  const brake = await orders.activeBrake();
  if (brake === undefined) return undefined;
  return brake.state === 'frozen' ? 'on: lapse resume releases it' : 'released, extensions are being granted';
}
