import type { Deadlines } from '@lapse/deadlines';
import type { Orders } from '@lapse/orders';
import { healthHandler, Histogram, type HealthOptions, type Log } from '@lapse/runtime';
import express, { type Express, type RequestHandler } from 'express';
import helmet from 'helmet';
import { requireApiKey } from './api-key.ts';
import { problemHandler, unknownRoute } from './problem.ts';
import { orderRoutes } from './routes/orders.ts';
import { paymentRoutes } from './routes/payments.ts';
import { stockRoutes } from './routes/stock.ts';

/** What the API is made of. */
export interface ApiOptions {
  readonly orders: Orders;
  readonly deadlines: Deadlines;
  readonly apiKey: string;
  /** Number of proxies whose X-Forwarded headers are believed. */
  readonly trustProxy: number;
  readonly health: HealthOptions;
  readonly log: Log;
}

/** The HTTP API, v1. */
export function createApi(options: ApiOptions): Express {
  const { health, log } = options;
  const app = express();
  app.set('trust proxy', options.trustProxy).set('etag', false).set('query parser', 'simple');
  app.use(healthHandler(health));
  app.use(securityHeaders());
  app.use(timeRequests(health));
  // The key is checked before the body is read: nobody else makes us parse anything.
  app.use('/v1', requireApiKey(options.apiKey), express.json({ limit: '128kb' }));
  app.use(orderRoutes(options), paymentRoutes(options), stockRoutes(options));
  app.use(unknownRoute);
  app.use(problemHandler(log));
  return app;
}

/** For answers that are JSON: those of helmet's headers that say something about a page are left out. */
function securityHeaders(): RequestHandler {
  return helmet({
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
  });
}

function timeRequests({ metrics }: HealthOptions): RequestHandler {
  const durations = new Histogram({
    name: 'lapse_http_request_duration_seconds',
    help: 'Time from a request to the end of its answer',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers: [metrics],
  });
  return (request, response, next) => {
    const startedAt = performance.now();
    response.on('finish', () => {
      const route: unknown = request.route;
      durations.observe(
        { method: request.method, route: routePath(route), status: response.statusCode },
        (performance.now() - startedAt) / 1000,
      );
    });
    next();
  };
}

/** The pattern of a route, not the path with its ids: labels must stay few. */
function routePath(route: unknown): string {
  const known = typeof route === 'object' && route !== null && 'path' in route;
  return known && typeof route.path === 'string' ? route.path : 'unknown';
}
