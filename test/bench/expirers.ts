import { join } from 'node:path';

import { createDeadlines } from '@lapse/deadlines';
import { spawnApp, spawnGuarded, waitFor, type RunningApp } from '@lapse/devstack';
import { createMetrics } from '@lapse/runtime';
import { Queue } from 'bullmq';

import { root } from '../root.ts';
import { log, type Scene } from './stage.ts';

/** A way to cancel orders when their time is over: Lapse, or a reference. */
export interface Expirer {
  readonly name: string;
  /** Partitions the orders are to be placed in. */
  readonly partitionCount: number;
  /** Whether the orders stay as they are, because only the queue is measured. */
  readonly isIdle?: boolean;
  /** Starts its processes. */
  start(scene: Scene): Promise<RunningExpirer>;
}

/** An expirer whose processes run. */
export interface RunningExpirer {
  /** Processes that cancel. */
  readonly pids: readonly number[];
  /** Schedules every pending order. */
  arm(): Promise<void>;
  /** Jobs that its queue still has to deal with; missing where a job ends with its order. */
  jobsLeft?(): Promise<number>;
  /** @throws Error where a process has ended, with its last lines */
  expectAlive(): void;
  stop(): Promise<void>;
}

/** Lapse itself: worker processes, armed as a rebuild arms. */
export function lapse(options: {
  workerCount: number;
  partitionCount: number;
  /** False: Redis lost the jobs, and only the sweeper is left. Default true. */
  isArmed?: boolean;
}): Expirer {
  const { workerCount, partitionCount, isArmed = true } = options;
  const workers = `${workerCount} ${workerCount === 1 ? 'worker' : 'workers'}`;
  const queues = `${partitionCount} ${partitionCount === 1 ? 'partition' : 'partitions'}`;
  const partitions = Array.from({ length: partitionCount }, (_, partition) => partition);
  return {
    name: `Lapse, ${workers}, ${isArmed ? queues : 'jobs lost'}`,
    partitionCount,
    async start({ databaseUrl, redisUrl, database }) {
      const deadlines = createDeadlines({ redisUrl, log, metrics: createMetrics() });
      const env = {
        DATABASE_URL: databaseUrl,
        REDIS_URL: redisUrl,
        LAPSE_HOST: '127.0.0.1',
        LAPSE_WORKER_PORT: '0',
        LAPSE_PARTITIONS: String(partitionCount),
      };
      const apps: RunningApp[] = [];
      const ended: RunningApp[] = [];
      const stop = async (): Promise<void> => {
        await Promise.all(apps.map((app) => app.stop()));
        await deadlines.stop();
      };
      try {
        await waitFor(() => deadlines.reachable(), { what: 'redis' });
        // Whole, as far as the workers can tell: no rebuild runs beside the round.
        await deadlines.markEpoch(partitions, crypto.randomUUID());
        for (let n = 1; n <= workerCount; n += 1) {
          const app = await spawnApp({ app: 'worker', root, name: `worker-${n}`, env });
          apps.push(app);
          void app.exited.then(() => ended.push(app));
        }
      } catch (error) {
        await stop();
        throw error;
      }
      return {
        pids: apps.map(({ pid }) => pid),
        async arm() {
          if (!isArmed) return;
          const { rows } = await database.query<Parameters<typeof deadlines.armMany>[0][number]>(
            `select id as "orderId", partition, created_at as "createdAt", expire_at as "expireAt" from orders`,
          );
          const { failed } = await deadlines.armMany(rows);
          if (failed > 0) throw new Error(`${failed} deadlines were not armed`);
        },
        async jobsLeft() {
          const depths = [...(await deadlines.depths(partitions)).values()];
          // A canary in each partition is always there.
          return depths.reduce((sum, { delayed, waiting, active }) => {
            return sum + Math.max(0, delayed + waiting + active - 1);
          }, 0);
        },
        expectAlive() {
          for (const app of ended) throw new Error(`${app.name} ended:\n${app.logs().join('\n')}`);
        },
        stop,
      };
    },
  };
}

/** A program in `references/`. */
export function reference(name: string, program: string): Expirer {
  const file = join(root, 'test', 'bench', 'references', `${program}.ts`);
  return {
    name,
    partitionCount: 1,
    isIdle: program === 'noop',
    async start({ databaseUrl, redisUrl }) {
      let isReady = false;
      const run = (side: 'arm' | 'work') =>
        spawnGuarded(process.execPath, [file, side], {
          name: program,
          cwd: root,
          env: { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl },
          onLine(line) {
            isReady ||= line === '{"msg":"ready"}';
          },
        });
      const working = await run('work');
      const expectAlive = (): void => {
        if (!working.isRunning()) throw new Error(`${program} ended:\n${working.logs().join('\n')}`);
      };
      await waitFor(
        () => {
          expectAlive();
          return isReady;
        },
        { what: `${program} to be ready`, timeoutMs: 30_000 },
      );
      const queue = program === 'noop' ? new Queue('noop', { connection: { url: redisUrl } }) : undefined;
      return {
        pids: [working.pid],
        async arm() {
          const arming = await run('arm');
          const { code } = await arming.exited;
          if (code !== 0) throw new Error(`${program} armed nothing:\n${arming.logs().join('\n')}`);
        },
        ...(queue === undefined ? {} : { jobsLeft: () => countLeft(queue) }),
        expectAlive,
        async stop() {
          await queue?.close();
          await working.stop();
        },
      };
    },
  };
}

async function countLeft(queue: Queue): Promise<number> {
  const counts = await queue.getJobCounts('delayed', 'waiting', 'active');
  return Object.values(counts).reduce((sum, count) => sum + count, 0);
}
