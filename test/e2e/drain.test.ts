import { once } from 'node:events';
import { Agent, request as httpRequest } from 'node:http';
import { connect, type Socket } from 'node:net';

import type { Order } from '@lapse/client';
import { inParallel, type RunningApp, waitFor } from '@lapse/devstack';
import { describe, expect, test } from 'vitest';

import { apiKey, countCancelled, startFleet, untilNonePending, type Fleet } from './fleet.ts';

const connectionCount = 64;
const checkout = { currency: 'EUR', items: [{ sku: 'mug', quantity: 1, unitAmount: 100 }] };

/** A request that was not answered: how, and whether its connection had answered others before. */
interface Unanswered {
  readonly code: string;
  readonly reused: boolean;
}

type Outcome<Body> = { readonly status: number; readonly body: Body } | Unanswered;

/** Posts on a kept-alive connection; never rejects. */
function post<Body>(agent: Agent, url: string, path: string, sent: unknown): Promise<Outcome<Body>> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const request = httpRequest({
      agent,
      host: hostname,
      port,
      path,
      method: 'POST',
      headers: { Authorization: `Bearer ${apiKey}`, 'Content-Type': 'application/json' },
    });
    const fail = (error: NodeJS.ErrnoException): void =>
      resolve({ code: error.code ?? error.message, reused: request.reusedSocket });
    request.on('error', fail);
    request.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('error', fail);
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) as Body }));
    });
    request.end(JSON.stringify(sent));
  });
}

/** Customers at one api, each on a kept-alive connection, who order and mostly pay until nobody answers. */
class Load {
  readonly placed: string[] = [];
  readonly paid: string[] = [];
  readonly refused: Unanswered[] = [];
  readonly broken: unknown[] = [];
  readonly ended: Promise<unknown>;
  readonly #agents: Agent[] = [];
  #stopped = false;

  constructor(api: RunningApp, name: string) {
    this.ended = inParallel(connectionCount, connectionCount, async (lane) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      this.#agents.push(agent);
      for (let n = 0; !this.#stopped; n += 1) {
        if (!(await this.#orderAndPay(agent, api.url, `${name}-${lane}-${n}`))) return;
      }
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.ended;
    for (const agent of this.#agents) agent.destroy();
  }

  async #orderAndPay(agent: Agent, url: string, providerPaymentId: string): Promise<boolean> {
    const order = await post<Order>(agent, url, '/v1/orders', checkout);
    if (!this.#isAnswered(order, 201)) return false;
    const { id, amount, currency } = order.body;
    this.placed.push(id);
    if (this.placed.length % 4 === 0) return true;
    const report = { provider: 'shop', providerPaymentId, amount, currency };
    const payment = await post(agent, url, `/v1/orders/${id}/payments`, report);
    if (!this.#isAnswered(payment, 200)) return false;
    this.paid.push(id);
    return true;
  }

  #isAnswered<Body>(
    outcome: Outcome<Body>,
    status: number,
  ): outcome is Extract<Outcome<Body>, { status: number }> {
    if ('status' in outcome && outcome.status === status) return true;
    // Nothing was sent where nobody listens any more.
    if ('code' in outcome && outcome.code === 'ECONNREFUSED') this.refused.push(outcome);
    else this.broken.push(outcome);
    return false;
  }
}

/** Fails unless every answer that was given is true of the rows. */
async function expectKept(fleet: Fleet, loads: readonly Load[]): Promise<void> {
  const placed = loads.flatMap((load) => load.placed);
  const { rows } = await fleet.database.query(
    `select count(*) as orders, count(*) filter (where exists (
       select from events e where e.order_id = o.id and e.type = 'order.placed')) as events
     from orders o where id = any ($1::uuid[])`,
    [placed],
  );
  expect(rows).toEqual([{ orders: placed.length, events: placed.length }]);
  const paid = loads.flatMap((load) => load.paid);
  const { rows: ofPaid } = await fleet.database.query(
    "select count(*) as count from orders where id = any ($1::uuid[]) and status = 'paid'",
    [paid],
  );
  expect(ofPaid).toEqual([{ count: paid.length }]);
}

const isStopping = (app: RunningApp) => (): boolean => app.logs().some((line) => line.includes('"stopping"'));

/** Opens a connection and sends a piece of a request, or nothing. */
async function open(app: RunningApp, piece: string): Promise<{ socket: Socket; received: () => string }> {
  const socket = connect({ port: app.port, host: '127.0.0.1' });
  await once(socket, 'connect');
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  socket.on('error', () => undefined);
  if (piece !== '') socket.write(piece);
  return { socket, received: () => text };
}

const head = (length: number): string =>
  `POST /v1/orders HTTP/1.1\r\nHost: lapse\r\nAuthorization: Bearer ${apiKey}\r\n` +
  `Content-Type: application/json\r\nContent-Length: ${length}\r\n\r\n`;

describe('an api that is told to stop', () => {
  test('answers every request of its kept-alive connections, ten times over, while another serves on', async () => {
    const fleet = await startFleet({ apiCount: 2, workerCount: 1 });
    try {
      await fleet.client.setStock('mug', 1_000_000);
      const [steady] = fleet.apis;
      let leaving = fleet.apis[1];
      if (steady === undefined || leaving === undefined) throw new Error('there are no apis');
      const beside = new Load(steady, 'steady');
      const loads = [beside];
      for (let round = 1; round <= 10; round += 1) {
        const load = new Load(leaving, `leaving-${round}`);
        loads.push(load);
        await waitFor(() => load.paid.length > 200, { what: 'the load to run', timeoutMs: 20_000 });
        leaving.kill('SIGTERM');
        await load.ended;
        expect({ round, broken: load.broken }).toEqual({ round, broken: [] });
        expect(load.refused.length).toBe(connectionCount);
        expect(await leaving.exited).toEqual({ code: 0, signal: null });
        leaving = await fleet.add('api');
      }
      await beside.stop();
      expect(beside.broken).toEqual([]);
      expect(beside.refused).toEqual([]);
      expect(beside.placed.length).toBeGreaterThan(1000);
      await expectKept(fleet, loads);
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  }, 120_000);

  test('answers what idle connections still bring, and says on it that they end', async () => {
    const fleet = await startFleet({ workerCount: 0 });
    try {
      await fleet.client.setStock('mug', 1000);
      const [api] = fleet.apis;
      if (api === undefined) throw new Error('there is no api');
      const body = JSON.stringify(checkout);
      const connections = await inParallel(32, 32, () => open(api, head(body.length) + body));
      await waitFor(() => connections.every(({ received }) => received().includes('"pending_payment"')), {
        what: 'the first answers',
      });
      api.kill('SIGTERM');
      await waitFor(isStopping(api), { what: 'the api to stop' });
      for (const { socket } of connections) socket.write(head(body.length) + body);
      await Promise.all(connections.map(({ socket }) => once(socket, 'end')));
      for (const { received } of connections) {
        expect(received().match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 201', 'HTTP/1.1 201']);
        expect(received().match(/Connection: [\w-]+/gi)).toEqual([
          'Connection: keep-alive',
          'Connection: close',
        ]);
      }
      expect(await api.exited).toEqual({ code: 0, signal: null });
      const { rows } = await fleet.database.query('select count(*) as count from orders');
      expect(rows).toEqual([{ count: 64 }]);
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  });

  test('waits for a body that is on its way, but not for connections that never said anything', async () => {
    const fleet = await startFleet({ workerCount: 0 });
    try {
      await fleet.client.setStock('mug', 10);
      const [api] = fleet.apis;
      if (api === undefined) throw new Error('there is no api');
      const body = JSON.stringify(checkout);
      const [mute, slow] = [await open(api, ''), await open(api, head(body.length) + body.slice(0, 10))];
      // Its head has arrived for sure when a later request was answered.
      await fleet.client.stock('mug');
      api.kill('SIGTERM');
      await once(mute.socket, 'close');
      slow.socket.write(body.slice(10));
      await once(slow.socket, 'end');
      expect(slow.received()).toMatch(/^HTTP\/1\.1 201 /);
      expect(await api.exited).toEqual({ code: 0, signal: null });
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  });

  test('does not wait for strangers that send a part of a head, or of a body, and no more', async () => {
    const fleet = await startFleet({ workerCount: 0 });
    try {
      const [api] = fleet.apis;
      if (api === undefined) throw new Error('there is no api');
      const half = await open(api, 'GET /healthz HTTP/1.1\r\nHost: lapse\r\n\r\n');
      await waitFor(() => half.received().includes('"ok"'), { what: 'the first answer' });
      half.socket.write('GET /healthz HTTP/1.1\r\nHos');
      const stalled = await open(api, `${head(100)}{`);
      await fleet.client.orders();
      const closed = [half, stalled].map(({ socket }) => once(socket, 'close'));
      const toldAt = performance.now();
      api.kill('SIGTERM');
      await Promise.all(closed);
      expect(await api.exited).toEqual({ code: 0, signal: null });
      expect(performance.now() - toldAt).toBeLessThan(15_000);
      expect(stalled.received()).toBe('');
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  });

  test('ends at once when it is told twice', async () => {
    const fleet = await startFleet({ workerCount: 0 });
    try {
      const [api] = fleet.apis;
      if (api === undefined) throw new Error('there is no api');
      const { socket } = await open(api, head(100));
      await fleet.client.orders();
      api.kill('SIGTERM');
      await waitFor(isStopping(api), { what: 'the api to stop' });
      const closed = once(socket, 'close');
      api.kill('SIGTERM');
      expect(await api.exited).toEqual({ code: 1, signal: null });
      await closed;
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  });
});

describe('a worker that is told to stop', () => {
  const orderCount = 3000;

  test.each(['SIGTERM', 'SIGINT'] as const)(
    'in the middle of its work finishes what it has in hand, %s',
    async (signal) => {
      const fleet = await startFleet({ workerCount: 0 });
      try {
        await fleet.client.setStock('mug', orderCount);
        // Due together, when there is no worker yet: the first one finds all of them.
        const orders = await inParallel(orderCount, 64, () =>
          fleet.client.checkout({ ...checkout, paymentWindowMs: 1000 }),
        );
        const worker = await fleet.add('worker');
        await waitFor(
          // Whoever was first: with all of them overdue at its start, the sweeper may be.
          async () => (await countCancelled(fleet.database)) > 0,
          {
            what: 'the first cancellation',
            timeoutMs: 20_000,
          },
        );
        worker.kill(signal);
        expect(await worker.exited).toEqual({ code: 0, signal: null });
        const jobs = await inParallel(
          orderCount,
          64,
          async (n) => (await fleet.client.timeline(orders[n]?.id ?? '')).job,
        );
        expect(jobs.filter((job) => job?.state === 'active' || job?.state === 'failed')).toEqual([]);

        await fleet.add('worker');
        await untilNonePending(fleet.database, 20_000);
        await fleet.expectInvariants();
      } finally {
        await fleet.stop();
      }
    },
    60_000,
  );

  test('at once after its start ends in good order', async () => {
    const fleet = await startFleet({ workerCount: 3 });
    try {
      const exits = await Promise.all(fleet.workers.map((worker) => worker.stop()));
      expect(exits).toEqual([1, 2, 3].map(() => ({ code: 0, signal: null })));
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  });
});
