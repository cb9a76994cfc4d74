import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { createAccount, type StripeAccount } from './account.ts';
import { callsTo, type Params } from './calls.ts';
import { type Answer, refusal } from './objects.ts';

/** A call that arrived. */
export interface StripeCall {
  /** As in `POST /v1/refunds`. */
  readonly line: string;
  readonly params: Params;
  readonly idempotencyKey: string | undefined;
  readonly apiVersion: string | undefined;
}

/** What Stripe tells; `body` is what it sends to a webhook endpoint, to be signed by whoever delivers it. */
export interface StripeEvent {
  readonly id: string;
  readonly type: string;
  readonly body: string;
}

/**
 * How a call goes wrong.
 *
 * - a status: it is not carried out, and answered so
 * - `breaks`: it is carried out, and answered with 500, for as long as its idempotency key is kept
 * - `cut`: it is carried out, and the connection cut instead of an answer
 * - `silent`: it is carried out, and never answered
 * - `drips`: it is carried out, and the answer never ends
 * - `garbled`: it is carried out, and answered by somebody else, in HTML
 */
export type StripeFault =
  | { readonly status: number; readonly message?: string; readonly code?: string }
  | 'breaks'
  | 'cut'
  | 'silent'
  | 'drips'
  | 'garbled';

/** A server to start. */
export interface StripeServerOptions {
  /** Default: a free one. */
  readonly port?: number;
  /** Hears every event, in the order in which they happen. Webhooks come in any order, doubled, or not at all. */
  readonly onEvent?: (event: StripeEvent) => void;
}

/** A server on 127.0.0.1 that speaks Stripe's language, and the people who use it. */
export interface StripeServer {
  readonly url: string;
  readonly port: number;
  /** The only key that it lets in. */
  readonly secretKey: string;
  /** Every call that was let in, the ones that went wrong included. */
  readonly calls: readonly StripeCall[];
  readonly events: readonly StripeEvent[];
  /** Those who pay, by the id of a page (`cs_…`) or a PaymentIntent (`pi_…`). */
  readonly customers: StripeAccount['customers'];
  /** Whose account it is, and time. */
  readonly owner: StripeAccount['owner'];
  /** The next `times` calls whose line matches go wrong. Default: one. */
  misbehave(line: RegExp, fault: StripeFault, times?: number): void;
  /** Forgets the idempotency keys, as Stripe does after a day. */
  forgetKeys(): void;
  stop(): Promise<void>;
}

/** Starts a server that speaks Stripe's API: forms in, JSON out, idempotency keys, errors in Stripe's words. */
export async function startStripe({ port, onEvent }: StripeServerOptions = {}): Promise<StripeServer> {
  const secretKey = `sk_test_${randomBytes(12).toString('hex')}`;
  const calls: StripeCall[] = [];
  const events: StripeEvent[] = [];
  const faults: { readonly line: RegExp; readonly fault: StripeFault; times: number }[] = [];
  const kept = new Map<
    string,
    { readonly request: string; readonly requestId: string; readonly answer: Answer }
  >();

  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  server.listen(port ?? 0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the listening socket has no port');
  const url = `http://127.0.0.1:${address.port}`;

  const account = createAccount({
    pageOf: (id) => `${url}/c/pay/${id}`,
    tell(type, object) {
      const id = `evt_${randomBytes(12).toString('hex')}`;
      const created = Math.floor(Date.now() / 1000);
      const api_version = calls.at(-1)?.apiVersion ?? null;
      const event = {
        id,
        object: 'event',
        api_version,
        created,
        data: { object },
        livemode: false,
        pending_webhooks: 1,
        type,
      };
      const told = { id, type, body: JSON.stringify(event) };
      events.push(told);
      onEvent?.(told);
    },
  });
  const carryOut = callsTo(account);

  /** Carries out a call, or repeats what was answered to its idempotency key. */
  function answerOnce(line: string, params: Params, key: string | undefined, requestId: string) {
    const run = (): { answer: Answer; headers: Record<string, string> } => ({
      answer: carryOut(line, params),
      headers: {},
    });
    if (key === undefined || !line.startsWith('POST ')) return run();
    const request = JSON.stringify([line, ...params]);
    const before = kept.get(key);
    if (before === undefined) {
      const ran = run();
      if (ran.answer.isKept) kept.set(key, { request, requestId, answer: frozen(ran.answer) });
      return { ...ran, headers: { 'Idempotency-Key': key } };
    }
    if (before.request !== request) {
      const message = `Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '${key}' if you meant to execute a different request.`;
      return {
        answer: refusal(400, message, { type: 'idempotency_error' }),
        headers: { 'Idempotency-Key': key },
      };
    }
    return {
      answer: before.answer,
      headers: {
        'Idempotency-Key': key,
        'Idempotent-Replayed': 'true',
        'Original-Request': before.requestId,
      },
    };
  }

  function takeFault(line: string): StripeFault | undefined {
    const found = faults.find((fault) => fault.times > 0 && fault.line.test(line));
    if (found !== undefined) found.times -= 1;
    return found?.fault;
  }

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await text(request);
    const requestId = `req_${randomBytes(7).toString('hex')}`;
    const { pathname, searchParams } = new URL(request.url ?? '', url);
    const line = `${request.method} ${pathname}`;
    const params: Params = new Map(request.method === 'GET' ? searchParams : new URLSearchParams(body));
    const apiVersion = header(request, 'stripe-version');
    const idempotencyKey = header(request, 'idempotency-key');
    const send = ({ status, body: answer }: Answer, more: Readonly<Record<string, string>> = {}): void => {
      response.writeHead(status, {
        'Content-Type': 'application/json',
        'Request-Id': requestId,
        'Stripe-Version': apiVersion ?? '',
        ...more,
      });
      response.end(JSON.stringify(answer));
    };
    if (request.headers.authorization !== `Bearer ${secretKey}`) {
      return send(refusal(401, 'Invalid API Key provided: sk_test_********************'));
    }
    calls.push({ line, params, idempotencyKey, apiVersion });
    const fault = takeFault(line);
    if (typeof fault === 'object') {
      const { status, message = 'It goes wrong, as it was told to.', code } = fault;
      const type = status >= 500 ? 'api_error' : 'invalid_request_error';
      return send(refusal(status, message, { type, ...(code !== undefined && { code }) }));
    }
    const { answer, headers } = answerOnce(line, params, idempotencyKey, requestId);
    switch (fault) {
      case undefined:
        return send(answer, headers);
      case 'breaks': {
        const broken = refusal(500, 'An unknown error occurred.', { type: 'api_error', isKept: true });
        const key = kept.get(idempotencyKey ?? '');
        if (idempotencyKey !== undefined && key !== undefined)
          kept.set(idempotencyKey, { ...key, answer: broken });
        return send(broken);
      }
      case 'cut':
        request.socket.destroy();
        return;
      case 'silent':
        return;
      case 'drips': {
        response.writeHead(200, { 'Content-Type': 'application/json' });
        const drip = setInterval(() => response.write(' '), 20);
        response.once('close', () => clearInterval(drip));
        return;
      }
      case 'garbled':
        response.writeHead(502, { 'Content-Type': 'text/html' }).end('<h1>Bad gateway</h1>');
    }
  }

  return {
    url,
    port: address.port,
    secretKey,
    calls,
    events,
    customers: account.customers,
    owner: account.owner,
    misbehave(line, fault, times = 1) {
      faults.push({ line, fault, times });
    },
    forgetKeys() {
      kept.clear();
    },
    async stop() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

/** An answer as it was, though its objects go on to change. */
function frozen(answer: Answer): Answer {
  return { ...answer, body: structuredClone(answer.body) };
}

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value[0] : value;
}
