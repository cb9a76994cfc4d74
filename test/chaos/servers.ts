import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  createTestDatabase,
  startPostgres,
  startRedis,
  type RunningServer,
  type TestDatabase,
} from '@lapse/devstack';
import { migrationsDir } from '@lapse/orders';
import { createLog, migrate } from '@lapse/runtime';

/** What the harness itself loses while servers are down is expected. */
export const log = createLog('chaos', 'silent');

/** A server that can be killed and started again, on the same port with the same data. */
export class Server {
  readonly port: number;
  readonly url: string;
  readonly #start: (port: number) => Promise<RunningServer>;
  #running: RunningServer;
  #isDown = false;

  private constructor(running: RunningServer, start: (port: number) => Promise<RunningServer>) {
    this.#running = running;
    this.#start = start;
    this.port = running.port;
    this.url = running.url;
  }

  static async first(start: (port?: number) => Promise<RunningServer>): Promise<Server> {
    return new Server(await start(), start);
  }

  /** Ends it with a signal: SIGKILL is a crash, SIGQUIT PostgreSQL's immediate shutdown. */
  async end(signal: NodeJS.Signals): Promise<void> {
    this.#running.kill(signal);
    await this.#running.exited;
    this.#isDown = true;
  }

  /** Starts it where it is down. */
  async startAgain(): Promise<void> {
    if (!this.#isDown) return;
    this.#running = await this.#start(this.port);
    this.#isDown = false;
  }

  stop(): Promise<void> {
    return this.#running.stop();
  }
}

/** The servers all runs share, and the migrated database that each run copies. */
export interface Servers {
  readonly postgres: Server;
  readonly redis: Server;
  readonly template: TestDatabase;
  stop(): Promise<void>;
}

/** Starts PostgreSQL and Redis, the latter with its append-only file. */
export async function startServers(onNotice: (notice: string) => void): Promise<Servers> {
  const folder = await mkdtemp(join(tmpdir(), 'lapse-chaos-'));
  // PostgreSQL's own user has to get through.
  await chmod(folder, 0o755);
  const started: Server[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(started.map((server) => server.stop()));
    await rm(folder, { recursive: true, force: true });
  };
  const first = async (
    name: string,
    start: (options: {
      dataDir: string;
      logFile: string;
      port?: number;
      onNotice: typeof onNotice;
    }) => Promise<RunningServer>,
  ): Promise<Server> => {
    const files = { dataDir: join(folder, name), logFile: join(folder, `${name}.log`), onNotice };
    const server = await Server.first((port) => start({ ...files, ...(port === undefined ? {} : { port }) }));
    started.push(server);
    return server;
  };
  try {
    const postgres = await first('postgres', startPostgres);
    const redis = await first('redis', startRedis);
    const template = await createTestDatabase({ adminUrl: postgres.url });
    await migrate({ url: template.url, dir: migrationsDir, log });
    return { postgres, redis, template, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
