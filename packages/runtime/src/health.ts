import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Metrics } from './metrics.ts';

/** Says what is wrong in a word or two, or undefined where all is well. */
export type HealthCheck = () => Promise<string | undefined>;

/** What `/readyz` answers for. */
export interface HealthOptions {
  readonly metrics: Metrics;
  /** Without these nothing works: one that complains makes the answer 503. */
  readonly required: Readonly<Record<string, HealthCheck>>;
  /** Told, but not asked for. */
  readonly reported?: Readonly<Record<string, HealthCheck>>;
  /** Whether the process is about to end. */
  readonly draining: () => boolean;
}

/**
 * Serves `/healthz` (the process lives), `/readyz` (it can work) and `/metrics`; everything else goes to `next`.
 * Plain node:http, so that processes without any other page need no web framework.
 */
export function healthHandler(
  options: HealthOptions,
): (request: IncomingMessage, response: ServerResponse, next: () => void) => void {
  const { metrics, required, reported = {}, draining } = options;

  const readiness = async (): Promise<{ ready: boolean; body: object }> => {
    const [needed, told] = await Promise.all([runAll(required), runAll(reported)]);
    const ready = !draining() && Object.values(needed).every((state) => state === 'ok');
    return {
      ready,
      body: { status: ready ? 'ready' : 'not_ready', draining: draining(), ...needed, ...told },
    };
  };
  const pages: Readonly<Record<string, () => Promise<Page>>> = {
    '/healthz': () => Promise.resolve(json(200, { status: 'ok' })),
    '/readyz': async () => {
      const { ready, body } = await readiness();
      return json(ready ? 200 : 503, body);
    },
    '/metrics': async () => ({ status: 200, type: metrics.contentType, body: await metrics.metrics() }),
  };
  return (request, response, next) => {
    // Node leaves out the body of an answer to HEAD by itself.
    const isRead = request.method === 'GET' || request.method === 'HEAD';
    const page = isRead ? pages[request.url?.split('?', 1)[0] ?? ''] : undefined;
    if (page === undefined) {
      next();
      return;
    }
    void page()
      .catch((error: unknown): Page => ({ status: 500, type: 'text/plain', body: `${String(error)}\n` }))
      .then(({ status, type, body }) => {
        const length = Buffer.byteLength(body);
        response
          .writeHead(status, { 'Content-Type': type, 'Content-Length': length, 'Cache-Control': 'no-store' })
          .end(body);
      });
  };
}

interface Page {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

function json(status: number, body: object): Page {
  return { status, type: 'application/json', body: `${JSON.stringify(body)}\n` };
}

async function runAll(checks: Readonly<Record<string, HealthCheck>>): Promise<Record<string, string>> {
  const states = await Promise.all(
    Object.entries(checks).map(async ([name, check]): Promise<[string, string]> => {
      const problem = await check().catch((error: unknown) => String(error));
      return [name, problem ?? 'ok'];
    }),
  );
  return Object.fromEntries(states);
}

/** Where nothing but health is served: every other path is unknown. */
export function notFound(response: ServerResponse): void {
  response
    .writeHead(404, { 'Content-Type': 'text/plain' })
    .end('There is nothing here but /healthz, /readyz, /metrics.\n');
}
