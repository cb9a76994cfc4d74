import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { codeOf, DevstackError } from './errors.ts';

/** The lowest port that outgoing connections get, where the system does not say: as Linux has it by default. */
const firstOutgoingPort = 32_768;

/** How many ports below that one are drawn from. */
const drawnFrom = 12_000;

/**
 * A TCP port of 127.0.0.1 that is free now, from those that no outgoing connection is given: a server that is down for
 * a second finds it free again. Another server may take it before it is used: be ready to ask again.
 */
export async function freePort(): Promise<number> {
  const first = await readFirstOutgoingPort();
  for (;;) {
    const port = randomInt(Math.max(1024, first - drawnFrom), first);
    if (await isPortFree(port)) return port;
  }
}

async function readFirstOutgoingPort(): Promise<number> {
  const range = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').catch(() => '');
  const first = Number.parseInt(range, 10);
  // Where nearly all ports are given out, there is nothing to choose.
  return first > 2048 ? first : firstOutgoingPort;
}

/** Whether a server could listen on `port` of 127.0.0.1 now. */
export async function isPortFree(port: number): Promise<boolean> {
  try {
    await listenOnce(port);
    return true;
  } catch (error) {
    const code = codeOf(error);
    if (code === 'EADDRINUSE' || code === 'EACCES') return false;
    throw error;
  }
}

/**
 * Runs `start` on `wished`, or where that is undefined on a free port, and again on another one when somebody took that
 * port in between.
 *
 * @throws DevstackError `port_taken` when `wished` is taken; whatever `start` throws for another reason
 */
export async function onPort<T>(
  wished: number | undefined,
  who: string,
  start: (port: number) => Promise<T>,
): Promise<T> {
  if (wished !== undefined && !(await isPortFree(wished))) throw portTaken(wished, who);
  for (let attempt = 1; ; attempt += 1) {
    const port = wished ?? (await freePort());
    try {
      return await start(port);
    } catch (error) {
      // A server says "address in use" only in its log; whether the port can be bound is the same question, asked better.
      if (await isPortFree(port)) throw error;
      if (wished !== undefined) throw portTaken(port, who);
      if (attempt === 5) throw error;
    }
  }
}

function portTaken(port: number, who: string): DevstackError {
  return new DevstackError(
    'port_taken',
    `port ${port} of 127.0.0.1, wished for ${who}, is taken: stop what listens there, or choose another port`,
  );
}

function listenOnce(port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen({ port, host: '127.0.0.1' }, () => {
      const address = server.address();
      server.close(() => {
        if (address !== null && typeof address === 'object') resolve(address.port);
        else reject(new Error('the listening socket has no port'));
      });
    });
  });
}
