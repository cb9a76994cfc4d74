import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { Server as NetServer, type AddressInfo, type Socket } from 'node:net';
import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises';
import type { Log } from './log.ts';
import { OperatorError } from './run-main.ts';
import type { Service } from './service.ts';

/**
 * After the listener closed, kept-alive connections may still bring requests: until this long none came, ms, but no
 * longer than `mostLastRequestsMs`. Who uses a pool of connections finds them closed one by one, each with an answer.
 */
const lastRequestsMs = 500;
const mostLastRequestsMs = 5000;

/** How long a stop waits for a moment in which no connection comes, ms. */
const acceptPatienceMs = 500;

/**
 * How long a client may then take for its part of a request, ms: to send the rest of a body, to read an answer. Well
 * below the 30 s a process has to stop, and the 10 s that Docker gives it.
 */
const slowClientMs = 4000;

/** Most ports tried after a taken one. */
const nextPortCount = 100;

/** An HTTP server as a service. `port` is the one it really listens on, once started. */
export interface HttpService extends Service {
  readonly port: number;
  /** Whether it is stopping: it still answers, but nobody should send more. */
  readonly draining: boolean;
}

/**
 * Serves HTTP until it is stopped, without dropping a request: on stop it accepts what waits to be, closes the listener,
 * answers what is under way and what kept-alive connections still send with `Connection: close`, then closes those
 * without a request. A handler has the time it needs, a client that does not send its body or read its answer has not.
 *
 * @param options.setting name of the port's setting, for the error of a taken port
 * @param options.tryNextPorts whether a taken port moves on to the next free one
 */
export function httpService(options: {
  name: string;
  handler: RequestListener;
  host: string;
  port: number;
  setting: string;
  tryNextPorts?: boolean;
  log: Log;
}): HttpService {
  const { name, handler, host, log } = options;
  let draining = false;
  const underWay = new Set<ServerResponse>();
  const sockets = new Set<Socket>();
  let acceptedCount = 0;
  let requestCount = 0;
  const server = createServer((request, response) => {
    requestCount += 1;
    underWay.add(response);
    response.once('close', () => underWay.delete(response));
    if (draining) closeAfter(response);
    handler(request, response);
  });
  server.on('connection', (socket) => {
    acceptedCount += 1;
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  // Longer than the idle time-out of common load balancers (60 s), so that it is they who close a connection.
  server.keepAliveTimeout = 65_000;

  return {
    name,
    get port() {
      const address = server.address();
      return address !== null && typeof address === 'object' ? address.port : options.port;
    },
    get draining() {
      return draining;
    },
    async start() {
      const last = options.tryNextPorts === true ? options.port + nextPortCount : options.port;
      const { port } = await listen(server, host, options.port, last, options.setting);
      log.info({ port, service: name }, 'listening');
    },
    async stop() {
      // What waits to be accepted when the listener closes is reset, and a turn of the event loop accepts one.
      if (server.listening) await untilStill(() => acceptedCount, twoTurns, acceptPatienceMs);
      if (!server.listening) return;
      draining = true;
      for (const response of underWay) closeAfter(response);
      const closed = new Promise<void>((resolve) => server.once('close', resolve));
      // http.Server.close would cut idle kept-alive connections, on which a request may be under way to us.
      NetServer.prototype.close.call(server);
      const pause = (ms: number) => Promise.race([closed, delay(ms, undefined, { ref: false })]);
      await untilStill(
        () => requestCount,
        () => pause(lastRequestsMs),
        mostLastRequestsMs,
      );
      let wereWaiting = new Set<ServerResponse>();
      while (sockets.size > 0) {
        // Timers come before sockets in a turn of the event loop: what was sent while this process was busy is read first.
        await nextTurn();
        const waiting = new Set([...underWay].filter(waitsForClient));
        const awaited = [...underWay].filter(
          (response) => !waiting.has(response) || !wereWaiting.has(response),
        );
        const kept = new Set(awaited.map(({ req }) => req.socket));
        // Not closeIdleConnections: to Node a connection is busy that never sent anything, or a part of a head.
        for (const socket of sockets) if (!kept.has(socket)) socket.destroy();
        wereWaiting = waiting;
        await pause(slowClientMs);
      }
      await closed;
    },
  };
}

/** Waits until a count stands still for the length of a pause, or the patience, ms, is over. */
async function untilStill(
  count: () => number,
  pause: () => Promise<unknown>,
  patienceMs: number,
): Promise<void> {
  const giveUpAt = performance.now() + patienceMs;
  let before: number;
  do {
    before = count();
    await pause();
  } while (count() !== before && performance.now() < giveUpAt);
}

async function twoTurns(): Promise<void> {
  await nextTurn();
  await nextTurn();
}

/** Whether a request waits for its client, who does not send the body or take the answer, and not for its handler. */
function waitsForClient({ req, writableEnded, writableNeedDrain }: ServerResponse): boolean {
  return !req.complete || writableEnded || writableNeedDrain;
}

/** Ends the connection behind an answer, and says so in its head where that is still to be written. */
function closeAfter(response: ServerResponse): void {
  // Not only its own half, as `end` would: a client that does not close the other one would keep the connection.
  if (response.headersSent) response.once('finish', () => response.req.socket.destroySoon());
  else response.setHeader('Connection', 'close');
}

async function listen(
  server: Server,
  host: string,
  port: number,
  lastPort: number,
  setting: string,
): Promise<AddressInfo> {
  try {
    return await new Promise<AddressInfo>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host, () => {
        server.off('error', reject);
        const address = server.address();
        if (address === null || typeof address === 'string') reject(new Error('the server has no TCP port'));
        else resolve(address);
      });
    });
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EADDRINUSE')) throw error;
    if (port < lastPort) return listen(server, host, port + 1, lastPort, setting);
    throw new OperatorError(
      `Port ${port} is taken. End what listens there, or set ${setting} to a free port.`,
      {
        cause: error,
      },
    );
  }
}
