import { createDeadlines, deadlineWorker, watchClock } from '@lapse/deadlines';
import { createOrders, migrationsDir } from '@lapse/orders';
import {
  createLog,
  createMetrics,
  databaseProblem,
  databaseService,
  healthHandler,
  httpService,
  loadSettings,
  notFound,
  openDatabase,
  runMain,
  runServices,
  type HttpService,
} from '@lapse/runtime';
import { watchBacklog } from './backlog.ts';
import { brakeAlarm, brakeProblem } from './brake.ts';
import { janitor } from './janitor.ts';
import { drift } from './drift.ts';
import { partitionsInUse } from './partitions.ts';
import { rebuild } from './rebuild.ts';
import { sweeper } from './sweeper.ts';
import { thaw } from './thaw.ts';

/** Whether the process ends already. */
let isEnding = false;

/** The consumer: cancels orders whose time is over. Any number of these run side by side. */
await runMain(async () => {
  const settings = loadSettings([
    'databaseUrl',
    'redisUrl',
    'host',
    'workerPort',
    'partitionCount',
    'brakeOrders',
    'brakeShare',
    'retentionDays',
    'logLevel',
  ]);
  const { redisUrl } = settings;
  const log = createLog('worker', settings.logLevel);
  const metrics = createMetrics();
  const database = openDatabase({ url: settings.databaseUrl, app: 'worker', log });
  const brake = { orders: settings.brakeOrders, share: settings.brakeShare };
  const orders = createOrders({ database, brake });
  const deadlines = createDeadlines({ redisUrl, log, metrics });
  const clock = watchClock({ clockOffsetMs: () => orders.clockOffsetMs(), log, metrics });
  watchBacklog({ orders, metrics });
  const sweep = sweeper({ orders, log, metrics });

  const partitions = partitionsInUse({ partitionCount: settings.partitionCount, orders, deadlines });
  const http: HttpService = httpService({
    name: 'http',
    host: settings.host,
    port: settings.workerPort,
    setting: 'LAPSE_WORKER_PORT',
    tryNextPorts: true,
    log,
    handler: (request, response) => {
      healthy(request, response, () => notFound(response));
    },
  });
  const healthy = healthHandler({
    metrics,
    required: { postgresql: () => databaseProblem(database, migrationsDir) },
    reported: {
      redis: () => deadlines.problem(),
      clock: () => Promise.resolve(clock.problem()),
      brake: () => brakeProblem(orders),
    },
    draining: () => http.draining,
  });

  for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => (isEnding = true));
  const started = await runServices(
    [
      // First, because it is connecting already: a database that is missing must not leave it behind.
      { name: 'deadlines', start: () => Promise.resolve(), stop: () => deadlines.stop() },
      databaseService({ database, url: settings.databaseUrl, dir: migrationsDir }),
      http,
      clock,
      deadlineWorker({
        redisUrl,
        log,
        metrics,
        clock,
        giveUp: endInOrder,
        expire: sweep.expire,
        partitions,
      }),
      sweep,
      brakeAlarm({ orders, log, metrics }),
      thaw({ orders, deadlines, log }),
      rebuild({ orders, deadlines, partitions, log, metrics }),
      drift({ orders, deadlines, partitions, clock, log, metrics }),
      janitor({ orders, log, metrics, retentionDays: settings.retentionDays }),
    ],
    log,
  );
  if (started) log.info({ port: http.port }, 'ready');
});

/**
 * Stops all services as a signal would, and ends with exit code 1, so that whoever runs this process starts it anew.
 * While the process ends already it does nothing: a second signal would end it at once, with work in hand.
 */
function endInOrder(): void {
  if (isEnding) return;
  isEnding = true;
  process.exitCode = 1;
  process.kill(process.pid, 'SIGTERM');
}
