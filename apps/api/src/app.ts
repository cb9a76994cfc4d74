import { IncomingMessage, ServerResponse, type IncomingHttpHeaders, type RequestListener } from 'node:http';
import { Socket } from 'node:net';
import type { Deadlines } from '@lapse/deadlines';
import type { Orders } from '@lapse/orders';
import type { PaymentProvider } from '@lapse/payments';
import { healthHandler, Histogram, type HealthOptions, type Log, type Metrics } from '@lapse/runtime';
import express, { type RequestHandler } from 'express';
import helmet from 'helmet';
import { apiKeyCheck } from './api-key.ts';
import { fastLane } from './fast-lane.ts';
import { Problem, problemHandler, unknownRoute } from './problem.ts';
import { attemptRoutes } from './routes/attempts.ts';
import { freezeRoutes } from './routes/freezes.ts';
import { hookRoutes } from './routes/hooks.ts';
import { checkoutCall, orderRoutes } from './routes/orders.ts';
import { payCall, paymentRoutes } from './routes/payments.ts';
import { stockRoutes } from './routes/stock.ts';
import { workRoutes } from './routes/work.ts';

/** What the API is made of. */
export interface ApiOptions {
  readonly orders: Orders;
  readonly deadlines: Deadlines;
  /** By name. */
  readonly providers: ReadonlyMap<string, PaymentProvider>;
  readonly apiKey: string;
  /** Number of proxies whose X-Forwarded headers are believed. */
  readonly trustProxy: number;
  readonly health: HealthOptions;
  readonly log: Log;
}

/** The most bytes a body may have. */
const maxBodyBytes = 128 * 1024;

/** The HTTP API, v1. */
export function createApi(options: ApiOptions): RequestListener {
  const { health, log } = options;
  const isAuthorized = apiKeyCheck(options.apiKey);
  const headers = securityHeaders();
  const time = requestTimer(health.metrics);
  const checkout = checkoutCall(options);
  const pay = payCall(options);
  const isCarried = fastLane({ checkout, pay, isAuthorized, headers, time, maxBodyBytes, log });

  const app = express();
  app.disable('x-powered-by');
  app.set('trust proxy', options.trustProxy).set('etag', false).set('query parser', 'simple');
  app.use(healthHandler(health));
  app.use((request, response, next) => {
    response.set(headers);
    time(request, response, () => routePath(request.route));
    next();
  });
  app.use(hookRoutes({ ...options, metrics: health.metrics }));
  // The key is checked before the body is read: nobody else makes us parse anything.
  app.use('/v1', requireKey(isAuthorized), express.json({ limit: maxBodyBytes }));
  app.use(orderRoutes({ ...options, checkout }), paymentRoutes({ ...options, pay }));
  app.use(attemptRoutes(options), workRoutes(options), stockRoutes(options), freezeRoutes(options));
  app.use(unknownRoute);
  app.use(problemHandler(log));
  return (request, response) => {
    if (!isCarried(request, response)) app(request, response);
  };
}

function requireKey(isAuthorized: (headers: IncomingHttpHeaders) => boolean): RequestHandler {
  return (request, _response, next) => {
    if (!isAuthorized(request.headers))
      throw new Problem('unauthorized', 'Send the API key as `Authorization: Bearer <key>`.');
    next();
  };
}

/**
 * Helmet's headers for answers that are JSON: those that say something about a page are left out. They are the same for
 * every answer, so it is asked once.
 */
function securityHeaders(): Record<string, string> {
  const request = new IncomingMessage(new Socket());
  const response = new ServerResponse(request);
  helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] },
    },
    crossOriginOpenerPolicy: false,
    originAgentCluster: false,
    xDnsPrefetchControl: false,
    xDownloadOptions: false,
    xPermittedCrossDomainPolicies: false,
    xXssProtection: false,
  })(request, response, () => undefined);
  return Object.fromEntries(
    Object.entries(response.getHeaders()).map(([name, value]) => [name, String(value)]),
  );
}

function requestTimer(
  metrics: Metrics,
): (request: IncomingMessage, response: ServerResponse, route: () => string) => void {
  const durations = new Histogram({
    name: 'lapse_http_request_duration_seconds',
    help: 'Time from a request to the end of its answer',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers: [metrics],
  });
  return ({ method = '' }, response, route) => {
    const startedAt = performance.now();
    response.on('finish', () => {
      durations.observe(
        { method, route: route(), status: response.statusCode },
        (performance.now() - startedAt) / 1000,
      );
    });
  };
}

/** The pattern of a route, not the path with its ids: labels must stay few. */
function routePath(route: unknown): string {
  const known = typeof route === 'object' && route !== null && 'path' in route;
  return known && typeof route.path === 'string' ? route.path : 'unknown';
}
