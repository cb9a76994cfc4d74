import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import type { Log } from '@lapse/runtime';
import { writeAnswer, type Answer, type Call, type Handler } from './answer.ts';
import { answerProblem, notJson } from './problem.ts';

/** One of the calls that come by the thousand. */
interface Lane {
  /** The pattern of its path, as metrics name it. */
  readonly route: string;
  readonly handler: Handler;
}

/** What the fast lane is made of. */
export interface FastLaneOptions {
  readonly checkout: Handler;
  readonly pay: Handler;
  readonly isAuthorized: (headers: IncomingHttpHeaders) => boolean;
  /** Headers of every answer. */
  readonly headers: Readonly<Record<string, string>>;
  /** Measures a call until its answer ends. */
  readonly time: (request: IncomingMessage, response: ServerResponse, route: () => string) => void;
  /** Most bytes of a body. */
  readonly maxBodyBytes: number;
  readonly log: Log;
}

/**
 * Carries checkouts and payments past Express, whose routing, middleware and body parser cost as much processor time as
 * all the rest of their door. It takes only what is ordinary to the last letter; a path in capitals, a compressed body or
 * a wrong key is Express's, where the same calls are routes as well.
 *
 * @returns whether it took the request
 */
export function fastLane(
  options: FastLaneOptions,
): (request: IncomingMessage, response: ServerResponse) => boolean {
  const { isAuthorized, maxBodyBytes, time, log } = options;
  const checkout: Lane = { route: '/v1/orders', handler: options.checkout };
  const payment: Lane = { route: '/v1/orders/:id/payments', handler: options.pay };

  return (request, response) => {
    const { method, url: path = '', headers } = request;
    const id = paymentPath.exec(path)?.[1];
    if (method !== 'POST' || (id === undefined && path !== checkout.route)) return false;
    // The key last: Express asks for it again where this is not taken.
    if (!isPlainJson(headers, maxBodyBytes) || !isAuthorized(headers)) return false;
    const lane = id === undefined ? checkout : payment;

    time(request, response, () => lane.route);
    readAll(request, (bytes) => {
      void answerCall(lane, bytes, { headers, params: { id } })
        .catch((error: unknown) => answerProblem(error, { log, method, path }))
        .then((answer) => {
          writeAnswer(response, { ...answer, headers: { ...options.headers, ...answer.headers } });
        });
    });
    return true;
  };
}

const paymentPath = /^\/v1\/orders\/([0-9a-f-]{36})\/payments$/;

const plainJson = /^application\/json(?:; ?charset=utf-8)?$/i;

function isPlainJson(headers: IncomingHttpHeaders, maxBytes: number): boolean {
  const length = Number(headers['content-length'] ?? 0);
  return (
    length > 0 &&
    length <= maxBytes &&
    plainJson.test(headers['content-type'] ?? '') &&
    headers['content-encoding'] === undefined
  );
}

/** Reads a body to its end; one that never comes is the server's time-out's. */
function readAll(request: IncomingMessage, onEnd: (bytes: Buffer) => void): void {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => onEnd(Buffer.concat(chunks)));
}

async function answerCall(lane: Lane, bytes: Buffer, call: Call): Promise<Answer> {
  return lane.handler({ ...call, body: parseJson(bytes) });
}

const utf8 = new TextDecoder();

/** @throws Problem `invalid_request` where it is not JSON, or neither an object nor an array */
function parseJson(bytes: Buffer): unknown {
  let body: unknown;
  try {
    body = JSON.parse(utf8.decode(bytes));
  } catch {
    throw notJson();
  }
  if (typeof body !== 'object' || body === null) throw notJson();
  return body;
}
