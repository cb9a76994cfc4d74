import { createDeadlines, deadlineWorker, watchClock } from '@lapse/deadlines';
import { createOrders, loadPolicies, migrationsDir } from '@lapse/orders';
import { createProviders, providerSettings } from '@lapse/payments';
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
import { closer } from './closer.ts';
import { drift } from './drift.ts';
import { watchMoney } from './money.ts';
import { partitionsInUse } from './partitions.ts';
import { providerFreeze, type ProviderFreeze } from './provider-freeze.ts';
import { rebuild } from './rebuild.ts';
import { refunder } from './refunder.ts';
import { reminders } from './reminders.ts';
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
    'policiesFile',
    'freezeAfterSeconds',
    'logLevel',
    ...providerSettings,
  ]);
  const { redisUrl } = settings;
  const log = createLog('worker', settings.logLevel);
  const metrics = createMetrics();
  // Before anything is opened: where a setting is missing, nothing is left behind that keeps the process alive.
  const providers = createProviders(settings, {
    log,
    metrics,
    onBreaker: (state, provider) => freezing.hear(state, provider),
  });
  const database = openDatabase({ url: settings.databaseUrl, app: 'worker', log });
  const brake = { orders: settings.brakeOrders, share: settings.brakeShare };
  const { policies, warnings } = await loadPolicies(settings.policiesFile);
  for (const warning of warnings) log.warn({ file: settings.policiesFile, warning }, 'policies file is odd');
  const orders = createOrders({ database, brake, policies });
  const deadlines = createDeadlines({ redisUrl, log, metrics });
  const clock = watchClock({ clockOffsetMs: () => orders.clockOffsetMs(), log, metrics });
  watchBacklog({ orders, metrics });
  const { freezeAfterSeconds } = settings;
  const freezing: ProviderFreeze = providerFreeze({
    orders,
    providers,
    freezeAfterMs: freezeAfterSeconds === undefined ? undefined : freezeAfterSeconds * 1000,
    log,
    metrics,
  });
  const close = closer({ orders, deadlines, providers, log, metrics });
  const sweep = sweeper({ orders, close: (answers) => close.take(answers), log, metrics });
  watchMoney({ orders, metrics });

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
      // Before those that fence orders, so that it stops after them: what they claimed in the end is asked about still.
      close,
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
      reminders({ redisUrl, orders, deadlines, log, metrics }),
      refunder({ orders, providers, log, metrics }),
      freezing,
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
