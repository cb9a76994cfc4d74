import { once } from 'node:events';
import { Agent, get, type IncomingMessage, type RequestListener } from 'node:http';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { httpService, type HttpService } from './http-server.ts';
import { createLog } from './log.ts';

const log = createLog('test', 'silent');
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

/** An HTTP service on 127.0.0.1 that answers `ok` unless told otherwise. */
function aService(
  options: { handler?: RequestListener; port?: number; tryNextPorts?: boolean } = {},
): HttpService {
  const { handler = (_, response) => response.end('ok'), port = 0, ...others } = options;
  const service = httpService({
    name: 'http',
    handler,
    host: '127.0.0.1',
    port,
    setting: 'LAPSE_API_PORT',
    log,
    ...others,
  });
  cleanups.push(() => service.stop());
  return service;
}

/** Occupies a port; the next one is free or not. */
async function occupy(port = 0): Promise<Server> {
  const server = createServer();
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => server.close());
  return server;
}

const portOf = (server: Server) => (server.address() as AddressInfo).port;

/** Sends a request; with an agent on its connection. */
async function ask(
  port: number,
  options: { agent?: Agent; path?: string } = {},
): Promise<{ status: number | undefined; body: string; connection: string | undefined }> {
  const request = get({ port, host: '127.0.0.1', ...options });
  const [response]: IncomingMessage[] = await once(request, 'response');
  if (response === undefined) throw new Error('there is no answer');
  const { statusCode: status, headers } = response;
  return { status, body: await text(response), connection: headers.connection };
}

/** Opens a connection and sends a piece of a request. */
async function send(port: number, piece: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  // A connection that the server destroys may be reset.
  socket.on('error', () => undefined);
  cleanups.push(() => socket.destroy());
  await once(socket, 'connect');
  socket.write(piece);
  return socket;
}

/** Waits until a stop has closed the listener. */
async function listenerClosed(service: HttpService): Promise<void> {
  while (!service.draining) await nextTurn();
}

/** An agent that keeps one connection. */
function keepAlive(): Agent {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  cleanups.push(() => agent.destroy());
  return agent;
}

/** A handler that answers when it is told to. */
function held() {
  const release: (() => void)[] = [];
  const arrived = new Set<() => void>();
  return {
    handler: ((_, response) => {
      release.push(() => response.end('late'));
      for (const tell of arrived) tell();
    }) satisfies RequestListener,
    release: () => release.splice(0).forEach((answer) => answer()),
    arrival: () => new Promise<void>((resolve) => arrived.add(resolve)),
  };
}

describe('starting', () => {
  test('it listens on the port it was given, or on a free one', async () => {
    const service = aService();
    await service.start();
    expect(service.port).toBeGreaterThan(0);
    expect(await ask(service.port)).toMatchObject({ status: 200, body: 'ok' });
  });

  test('a taken port is an error that names the port and its setting', async () => {
    const taken = portOf(await occupy());
    const service = aService({ port: taken });
    await expect(service.start()).rejects.toThrow(
      `Port ${taken} is taken. End what listens there, or set LAPSE_API_PORT to a free port.`,
    );
    await service.stop();
  });

  test('where it may, it moves on to the next free port', async () => {
    const taken = portOf(await occupy());
    const service = aService({ port: taken, tryNextPorts: true });
    await service.start();
    expect(service.port).toBeGreaterThan(taken);
    expect(await ask(service.port)).toMatchObject({ status: 200 });
  });
});

describe('stopping', () => {
  test('takes no new connections', async () => {
    const service = aService();
    await service.start();
    const { port } = service;
    await service.stop();
    await expect(ask(port)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('answers the requests under way before it ends, and lets their connections go', async () => {
    const { handler, release, arrival } = held();
    const service = aService({ handler });
    await service.start();
    const arrived = arrival();
    const asked = ask(service.port, { agent: keepAlive() });
    await arrived;
    let isStopped = false;
    const stopped = service.stop().then(() => (isStopped = true));
    await listenerClosed(service);
    await expect(ask(service.port)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    expect(isStopped).toBe(false);
    release();
    expect(await asked).toMatchObject({ status: 200, body: 'late', connection: 'close' });
    await stopped;
  });

  test('answers what a kept-alive connection still sends, with Connection: close', async () => {
    const service = aService();
    await service.start();
    const { port } = service;
    const agent = keepAlive();
    expect(await ask(port, { agent })).toMatchObject({ status: 200 });
    const stopped = service.stop();
    await listenerClosed(service);
    expect(await ask(port, { agent })).toMatchObject({ status: 200, connection: 'close' });
    await stopped;
  });

  test('answers those that wait to be accepted', async () => {
    const service = aService();
    await service.start();
    const { port } = service;
    const asked = Array.from({ length: 20 }, () => ask(port));
    // Now they are connected, as far as the system is concerned, and nothing of theirs was read.
    await new Promise((resolve) => process.nextTick(resolve));
    await service.stop();
    for (const answer of await Promise.all(asked)) expect(answer).toMatchObject({ status: 200 });
  });

  test('goes on to answer kept-alive connections while they bring requests', async () => {
    const service = aService();
    await service.start();
    const { port } = service;
    const agents = Array.from({ length: 5 }, keepAlive);
    for (const agent of agents) await ask(port, { agent });
    const stopped = service.stop();
    await listenerClosed(service);
    for (const agent of agents) {
      await delay(300);
      expect(await ask(port, { agent })).toMatchObject({ status: 200, connection: 'close' });
    }
    await stopped;
  });

  test('answers what came while it was too busy to read it', async () => {
    const service = aService();
    await service.start();
    const socket = connect(service.port, '127.0.0.1');
    cleanups.push(() => socket.destroy());
    const request = 'GET / HTTP/1.1\r\nHost: lapse\r\n\r\n';
    socket.write(request);
    await once(socket, 'data');
    const stopped = service.stop();
    await listenerClosed(service);
    socket.write(request);
    // Beyond the instant at which idle connections are closed.
    const busyUntil = performance.now() + 700;
    while (performance.now() < busyUntil);
    const [answer]: Buffer[] = await once(socket, 'data');
    expect(answer?.toString()).toMatch(/^HTTP\/1.1 200 OK\r\n[^]*Connection: close/);
    await stopped;
  });

  test('drops no request of many busy connections', async () => {
    const service = aService({ handler: (_, response) => void setImmediate(() => response.end('ok')) });
    await service.start();
    const { port } = service;
    let answered = 0;
    const clients = Array.from({ length: 20 }, async () => {
      const agent = keepAlive();
      for (;;) {
        const { status, connection } = await ask(port, { agent });
        expect(status).toBe(200);
        answered += 1;
        if (connection === 'close') return;
        if (answered === 200) void service.stop();
      }
    });
    await Promise.all(clients);
    expect(answered).toBeGreaterThanOrEqual(200);
    await service.stop();
  });

  test('does not wait for a connection that sends nothing', async () => {
    const service = aService();
    await service.start();
    const idle: Socket = connect(service.port, '127.0.0.1');
    cleanups.push(() => idle.destroy());
    await once(idle, 'connect');
    // An answered request shows that the server has met the connection, too.
    await ask(service.port);
    const closed = once(idle, 'close');
    idle.resume();
    await service.stop();
    await expect(closed).resolves.toEqual([false]);
  });

  test('does not wait for a kept-alive connection that sends a part of a head and no more', async () => {
    const service = aService();
    await service.start();
    const socket = await send(service.port, 'GET / HTTP/1.1\r\nHost: lapse\r\n\r\n');
    await once(socket, 'data');
    socket.write('GET / HTTP/1.1\r\nHos');
    // An answered request shows that the server has read the part, too.
    await ask(service.port);
    const closed = once(socket, 'close');
    await service.stop();
    await expect(closed).resolves.toHaveLength(1);
  });

  test('gives clients some seconds to send their bodies and to take their answers, handlers the time they need', async () => {
    const { handler, release, arrival } = held();
    const megabytes = Buffer.alloc(50_000_000);
    const service = aService({
      handler(request, response) {
        if (request.url === '/held') handler(request, response);
        else if (request.url === '/large') response.end(megabytes);
        else
          void text(request).then(
            (body) => response.end(body),
            () => undefined,
          );
      },
    });
    await service.start();
    const halfBody = 'POST / HTTP/1.1\r\nHost: lapse\r\nContent-Length: 10\r\n\r\nhalf ';
    const stalled = await send(service.port, halfBody);
    const slow = await send(service.port, halfBody);
    const unread = await send(service.port, 'GET /large HTTP/1.1\r\nHost: lapse\r\n\r\n');
    unread.pause();
    const arrived = arrival();
    const worked = ask(service.port, { path: '/held' });
    await arrived;

    const stopped = service.stop();
    const givenUp = once(stalled, 'close');
    slow.write('body!');
    const [answer]: Buffer[] = await once(slow, 'data');
    expect(answer?.toString()).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*half body!$/);
    expect(stalled.destroyed).toBe(false);
    await givenUp;
    unread.resume();
    await once(unread, 'close');
    expect(unread.bytesRead).toBeLessThan(megabytes.length);
    release();
    expect(await worked).toMatchObject({ status: 200, body: 'late' });
    await stopped;
  });

  test('ends a connection whose answer was begun before the stop and ends after it', async () => {
    const begun: { finish?: () => void } = {};
    const service = aService({
      handler: (_, response) => {
        response.write('begun, ');
        begun.finish = () => response.end('done');
      },
    });
    await service.start();
    const asked = ask(service.port, { agent: keepAlive() });
    await expect.poll(() => begun.finish).toBeDefined();
    const stopped = service.stop();
    await listenerClosed(service);
    await expect(ask(service.port)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    begun.finish?.();
    expect(await asked).toMatchObject({ body: 'begun, done' });
    await expect(stopped).resolves.toBeUndefined();
  });

  test('before it was started, or twice, does no harm', async () => {
    const service = aService();
    await service.stop();
    await service.start();
    const { port } = service;
    await Promise.all([service.stop(), service.stop()]);
    await expect(ask(port)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });
});
