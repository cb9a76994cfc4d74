export { Batcher, BatcherFull, type BatchAnswer } from './batcher.ts';
export { healthHandler, notFound, type HealthOptions } from './health.ts';
export { httpService, type HttpService } from './http-server.ts';
export { createLog, type Log } from './log.ts';
export { Counter, createMetrics, Gauge, Histogram, type Metrics } from './metrics.ts';
export { databaseProblem, databaseService, migrate } from './migrations.ts';
export {
  DatabaseUnavailable,
  LockTimeout,
  openDatabase,
  queryable,
  sqlState,
  transaction,
  type Database,
  type Queryable,
  type Transaction,
  type Statement,
} from './postgres.ts';
export { connectRedis, countNodes, type RedisConnection } from './redis.ts';
export { OperatorError, runMain } from './run-main.ts';
export { periodic, runServices, type Service } from './service.ts';
export {
  givenSettings,
  givenVariables,
  loadSettings,
  SettingsError,
  type SettingName,
  type Settings,
} from './settings.ts';
