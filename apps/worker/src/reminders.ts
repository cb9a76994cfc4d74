import { reminderWorker, type Deadlines } from '@lapse/deadlines';
import type { Orders, RemindAnswer } from '@lapse/orders';
import { Counter, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How often reminders are looked for whose job was lost, late, or never armed, ms. */
const sweepEveryMs = 1000;

/** Most orders in one transaction of the sweep. */
const batchSize = 500;

/**
 * Sends payment reminders: those whose job fires, and those that a sweep finds in the rows. As for deadlines the row is the
 * truth, so a job that is lost, doubled, early or late sends none too many and none too few. Runs in every worker.
 */
export function reminders(options: {
  redisUrl: string;
  orders: Orders;
  deadlines: Deadlines;
  log: Log;
  metrics: Metrics;
}): Service {
  const { redisUrl, orders, deadlines, log, metrics } = options;
  const registers = [metrics];
  const sent = new Counter({
    name: 'lapse_reminders_total',
    help: 'Payment reminders that this worker wrote: because their job fired, or a sweep found them',
    labelNames: ['by'],
    registers,
  });
  for (const by of ['job', 'sweep']) sent.inc({ by }, 0);
  const errors = new Counter({
    name: 'lapse_reminder_sweep_errors_total',
    help: 'Sweeps of reminders that failed as a whole',
    registers,
  });

  const jobs = reminderWorker({
    redisUrl,
    log,
    async remind(orderIds) {
      const answers = await orders.remind(orderIds, 'worker');
      sent.inc({ by: 'job' }, remindedAmong(answers).length);
      return answers;
    },
  });
  const sweep = periodic({
    name: 'reminder sweep',
    everyMs: sweepEveryMs,
    log,
    onError: () => errors.inc(),
    async task(stopped) {
      for (let mayBeMore = true; mayBeMore && !stopped.aborted;) {
        const answers = await orders.sweepReminders(batchSize, 'sweeper');
        const reminded = remindedAmong(answers);
        sent.inc({ by: 'sweep' }, reminded.length);
        if (reminded.length > 0) log.debug({ orderCount: reminded.length }, 'missed reminders sent');
        const now = Date.now();
        await deadlines.armReminders(
          reminded.flatMap(({ orderId, nextMs }) =>
            nextMs === null ? [] : [{ orderId, remindAt: new Date(now + nextMs) }],
          ),
        );
        mayBeMore = answers.size === batchSize;
      }
    },
  });
  const services = [jobs, sweep];
  return {
    name: 'reminders',
    async start() {
      for (const service of services) await service.start();
    },
    async stop() {
      await Promise.all(services.map((service) => service.stop()));
    },
  };
}

/** The orders whose customers were reminded, and when the next time is. */
function remindedAmong(
  answers: ReadonlyMap<string, RemindAnswer>,
): readonly { readonly orderId: string; readonly nextMs: number | null }[] {
  return [...answers].flatMap(([orderId, found]) =>
    found.answer === 'reminded' ? [{ orderId, nextMs: found.nextMs }] : [],
  );
}
