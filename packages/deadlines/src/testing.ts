import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startRedis, waitFor, type RunningServer } from '@lapse/devstack';
import { createLog, createMetrics, type Metrics } from '@lapse/runtime';
import { Redis } from 'ioredis';
import { createDeadlines, type Deadlines } from './deadlines.ts';
import type { Deadline } from './jobs.ts';

/** A Redis of a test file's own, which it may kill. */
export interface TestRedis {
  readonly url: string;
  readonly port: number;
  /** A plain connection to it, for looking. */
  readonly client: Redis;
  /** Kills it as a crash would. */
  kill(): Promise<void>;
  /** Starts it again after `kill`, on the same port, with what it had saved. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

/** Starts a Redis in a folder of its own. */
export async function startTestRedis(): Promise<TestRedis> {
  const dataDir = await mkdtemp(join(tmpdir(), 'lapse-deadlines-'));
  let server: RunningServer = await startRedis({ dataDir, settings: { appendfsync: 'always' } });
  const client = new Redis(server.url);
  client.on('error', () => undefined);
  return {
    url: server.url,
    port: server.port,
    client,
    async kill() {
      server.kill('SIGKILL');
      await server.exited;
    },
    async restart() {
      server = await startRedis({ dataDir, port: server.port, settings: { appendfsync: 'always' } });
    },
    async stop() {
      client.disconnect();
      await server.stop();
      await rm(dataDir, { recursive: true, force: true });
    },
  };
}

/** A log that is read by nobody. */
export const silent = createLog('test', 'silent');

/** Options of a worker whose clock is right and that is not watched: no canary is among its jobs. */
export const unwatched = {
  clock: { isRight: () => true },
  giveUp: () => undefined,
  watch: { everyMs: 600_000 },
} as const;

/** Deadlines that are connected, with their metrics. They wait long, so that a busy machine defers nothing. */
export async function connectedDeadlines(
  redisUrl: string,
  armWaitMs = 5000,
): Promise<{ deadlines: Deadlines; metrics: Metrics }> {
  const metrics = createMetrics();
  const deadlines = createDeadlines({ redisUrl, log: silent, metrics, armWaitMs });
  await waitFor(() => deadlines.reachable(), { what: 'redis to be reachable' });
  return { deadlines, metrics };
}

/** The deadline of a new order that expires in `inMs`. */
export function newDeadline(inMs: number, overrides: Partial<Deadline> = {}): Deadline {
  const createdAt = new Date();
  return {
    orderId: randomUUID(),
    partition: 0,
    createdAt,
    expireAt: new Date(createdAt.getTime() + inMs),
    ...overrides,
  };
}

/** The value of a counter or gauge; of one label's value where it has several. */
export async function metric(metrics: Metrics, name: string, label?: string): Promise<number> {
  const found = metrics.getSingleMetric(name);
  if (found === undefined) throw new Error(`no metric ${name}`);
  const { values } = await found.get();
  return values
    .filter(
      ({ labels }) => label === undefined || Object.values(labels).some((value) => String(value) === label),
    )
    .reduce((sum, { value }) => sum + value, 0);
}
