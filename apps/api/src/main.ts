import { createDeadlines } from '@lapse/deadlines';
import { createOrders, loadPolicies, migrationsDir } from '@lapse/orders';
import { createProviders, providerSettings } from '@lapse/payments';
import {
  createLog,
  createMetrics,
  databaseProblem,
  databaseService,
  httpService,
  loadSettings,
  openDatabase,
  runMain,
  runServices,
  type HttpService,
} from '@lapse/runtime';
import { createApi } from './app.ts';

/** The producer: takes checkouts and payments, arms and disarms deadlines. */
await runMain(async () => {
  const settings = loadSettings([
    'databaseUrl',
    'redisUrl',
    'host',
    'apiPort',
    'apiKey',
    'partitionCount',
    'trustProxy',
    'policiesFile',
    'logLevel',
    ...providerSettings,
  ]);
  const log = createLog('api', settings.logLevel);
  const metrics = createMetrics();
  const database = openDatabase({ url: settings.databaseUrl, app: 'api', log });
  const { policies, warnings } = await loadPolicies(settings.policiesFile);
  for (const warning of warnings) log.warn({ file: settings.policiesFile, warning }, 'policies file is odd');
  const orders = createOrders({ database, partitionCount: settings.partitionCount, policies });
  const providers = createProviders(settings, { log, metrics });
  const deadlines = createDeadlines({ redisUrl: settings.redisUrl, log, metrics });

  const http: HttpService = httpService({
    name: 'http',
    host: settings.host,
    port: settings.apiPort,
    setting: 'LAPSE_API_PORT',
    log,
    handler: createApi({
      orders,
      deadlines,
      providers,
      apiKey: settings.apiKey,
      trustProxy: settings.trustProxy,
      health: {
        metrics,
        required: { postgresql: () => databaseProblem(database, migrationsDir) },
        reported: { redis: () => deadlines.problem() },
        draining: () => http.draining,
      },
      log,
    }),
  });

  const started = await runServices(
    [
      // First, because it is connecting already: a database that is missing must not leave it behind.
      { name: 'deadlines', start: () => Promise.resolve(), stop: () => deadlines.stop() },
      databaseService({ database, url: settings.databaseUrl, dir: migrationsDir }),
      http,
    ],
    log,
  );
  if (started) log.info({ port: http.port }, 'ready');
});
