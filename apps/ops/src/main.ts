import { createDeadlines } from '@lapse/deadlines';
import { createOrders, migrationsDir } from '@lapse/orders';
import {
  createLog,
  createMetrics,
  databaseProblem,
  databaseService,
  httpService,
  loadSettings,
  openDatabase,
  periodic,
  runMain,
  runServices,
  type HealthOptions,
  type HttpService,
} from '@lapse/runtime';
import { createOps } from './app.ts';
import { boardRefreshMs, createBoard } from './board.ts';

/** What people look at: Bull Board over the queues, and the console over the orders. */
await runMain(async () => {
  const settings = loadSettings([
    'databaseUrl',
    'redisUrl',
    'host',
    'opsPort',
    'opsUser',
    'opsPassword',
    'sessionSecret',
    'partitionCount',
    'trustProxy',
    'logLevel',
  ]);
  const log = createLog('ops', settings.logLevel);
  const metrics = createMetrics();
  const database = openDatabase({ url: settings.databaseUrl, app: 'ops', log, max: 4 });
  const orders = createOrders({ database, partitionCount: settings.partitionCount });
  const deadlines = createDeadlines({ redisUrl: settings.redisUrl, log, metrics });
  const { host, pathname } = new URL(settings.databaseUrl);
  const environment = `${pathname.slice(1)} @ ${host}`;
  const board = createBoard({ orders, deadlines, partitionCount: settings.partitionCount, environment });

  const health: HealthOptions = {
    metrics,
    required: { postgresql: () => databaseProblem(database, migrationsDir) },
    reported: { redis: () => deadlines.problem() },
    draining: () => http.draining,
  };
  const http: HttpService = httpService({
    name: 'http',
    host: settings.host,
    port: settings.opsPort,
    setting: 'LAPSE_OPS_PORT',
    log,
    handler: createOps({
      orders,
      deadlines,
      board,
      environment,
      credentials: { user: settings.opsUser, password: settings.opsPassword },
      sessionSecret: settings.sessionSecret,
      trustProxy: settings.trustProxy,
      health,
      log,
    }),
  });

  const started = await runServices(
    [
      // First, because it is connecting already: a database that is missing must not leave it behind.
      { name: 'deadlines', start: () => Promise.resolve(), stop: () => deadlines.stop() },
      databaseService({ database, url: settings.databaseUrl, dir: migrationsDir }),
      periodic({ name: 'board', everyMs: boardRefreshMs, log, task: () => board.refresh() }),
      http,
    ],
    log,
  );
  if (started) log.info({ port: http.port }, 'ready');
});
