import { createDeadlines, type Deadlines } from '@lapse/deadlines';
import { createOrders, migrationsDir, type CheckoutRequest, type Order, type Orders } from '@lapse/orders';
import {
  connectRedis,
  createLog,
  createMetrics,
  databaseProblem,
  httpService,
  openDatabase,
  type HttpService,
} from '@lapse/runtime';
import { createOps } from './app.ts';
import { createBoard, type Board } from './board.ts';

export const credentials = { user: 'ops', password: 'correct horse battery staple' };

/** The ops app, listening, over servers that may be missing. */
export interface TestOps {
  readonly orders: Orders;
  readonly deadlines: Deadlines;
  readonly board: Board;
  readonly url: string;
  /** Asks for a page, without a session; redirects are not followed. */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** Logs in; what it returns asks with the session. */
  signIn(): Promise<(path: string, init?: RequestInit) => Promise<Response>>;
  stop(): Promise<void>;
}

/**
 * Starts the ops app as `main.ts` does, on a free port.
 *
 * @param options.logged receives what is logged
 */
export async function startOps(options: {
  databaseUrl: string;
  redisUrl: string;
  partitionCount?: number;
  trustProxy?: number;
  logged?: string[];
}): Promise<TestOps> {
  const { databaseUrl, redisUrl, partitionCount = 2, trustProxy = 0, logged } = options;
  const silent = createLog('test', 'silent');
  const log = logged === undefined ? silent : listeningLog(logged);
  const metrics = createMetrics();
  const database = openDatabase({ url: databaseUrl, app: 'test', log: silent, max: 4 });
  const orders = createOrders({ database, partitionCount });
  const deadlines = createDeadlines({ redisUrl, log: silent, metrics, armWaitMs: 5000 });
  const board = createBoard({ orders, deadlines, partitionCount, environment: 'test' });
  const http: HttpService = httpService({
    name: 'http',
    host: '127.0.0.1',
    port: 0,
    setting: 'LAPSE_OPS_PORT',
    log: silent,
    handler: createOps({
      orders,
      deadlines,
      board,
      environment: 'test',
      credentials,
      sessionSecret: 'not a secret, but long enough for one',
      trustProxy,
      health: {
        metrics,
        required: { postgresql: () => databaseProblem(database, migrationsDir) },
        draining: () => http.draining,
      },
      log,
    }),
  });
  await http.start();
  const url = `http://127.0.0.1:${http.port}`;
  const ask = (path: string, init: RequestInit = {}) => fetch(url + path, { redirect: 'manual', ...init });
  return {
    orders,
    deadlines,
    board,
    url,
    fetch: ask,
    async signIn() {
      const cookie = cookiesOf(await ask('/login', form(credentials)));
      return (path, init = {}) => {
        const headers = new Headers(init.headers);
        headers.set('cookie', cookie);
        if (!headers.has('accept')) headers.set('accept', 'text/html');
        return ask(path, { ...init, headers });
      };
    },
    async stop() {
      await http.stop();
      await deadlines.stop();
      await database.end();
    },
  };
}

function listeningLog(lines: string[]) {
  const log = createLog('test', 'info');
  const listen =
    (level: string) =>
    (...line: unknown[]): void => {
      lines.push(JSON.stringify([level, ...line]));
    };
  return Object.assign(log, { info: listen('info'), warn: listen('warn'), error: listen('error') });
}

/** A form as a browser posts it. */
export function form(fields: Record<string, string>): RequestInit {
  return { method: 'POST', body: new URLSearchParams(fields) };
}

/** The cookies an answer sets, as the next request carries them. */
export function cookiesOf(response: Response): string {
  return response.headers
    .getSetCookie()
    .map((cookie) => cookie.split(';', 1)[0])
    .join('; ');
}

/** Empties a Redis database. */
export async function emptyRedis(url: string): Promise<void> {
  const redis = connectRedis({ url, role: 'worker', log: createLog('test', 'silent') });
  await redis.flushdb();
  redis.disconnect();
}

/** Places an order of SKU `tea` and arms its deadline. */
export async function place(
  { orders, deadlines }: Pick<TestOps, 'orders' | 'deadlines'>,
  changes: Partial<CheckoutRequest> = {},
): Promise<Order> {
  const answer = await orders.checkout({
    reference: null,
    channel: 'default',
    paymentMethod: 'card',
    currency: 'EUR',
    items: [{ sku: 'tea', quantity: 2, unitAmount: 1250 }],
    paymentWindowMs: 60_000,
    metadata: {},
    actor: 'test',
    ...changes,
  });
  if (answer.outcome !== 'placed') throw new Error(`the order was not placed: ${answer.outcome}`);
  const { id, partition, createdAt, expireAt } = answer.order;
  if (expireAt !== null) await deadlines.arm({ orderId: id, partition, createdAt, expireAt });
  return answer.order;
}
