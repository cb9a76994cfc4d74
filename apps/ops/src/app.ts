import type { IncomingMessage } from 'node:http';
import { fileURLToPath } from 'node:url';
import type { Deadlines } from '@lapse/deadlines';
import type { Orders } from '@lapse/orders';
import { healthHandler, type HealthOptions, type Log } from '@lapse/runtime';
import express, { type Express, type RequestHandler } from 'express';
import helmet from 'helmet';
import type { Board } from './board.ts';
import { loginRoutes, type Credentials } from './login/routes.ts';
import { requireSession, sessions } from './login/session.ts';
import { refuseOtherSites } from './login/same-origin.ts';
import { errorPage, unknownPage } from './pages/errors.ts';
import { heldPage } from './pages/held.ts';
import { orderPages } from './pages/orders.ts';
import { overviewPage } from './pages/overview.ts';
import { workPage } from './pages/work.ts';
import { createViews } from './views.ts';

/** What the ops app is made of. */
export interface OpsOptions {
  readonly orders: Orders;
  readonly deadlines: Deadlines;
  readonly board: Board;
  /** Which installation this is, for the eyes of its users: the database's name and host. */
  readonly environment: string;
  readonly credentials: Credentials;
  /** Signs the session cookie. */
  readonly sessionSecret: string;
  /** Number of proxies whose X-Forwarded headers are believed. */
  readonly trustProxy: number;
  readonly health: HealthOptions;
  readonly log: Log;
}

const assets = fileURLToPath(new URL('../public', import.meta.url));

/** Bull Board and the console, behind one login. */
export function createOps(options: OpsOptions): Express {
  const { board, credentials, health, log } = options;
  const views = createViews({ environment: options.environment });
  const app = express();
  app.set('trust proxy', options.trustProxy).set('etag', false).set('query parser', 'simple');
  app.use(healthHandler(health));
  app.use(securityHeaders(board.path));
  app.use('/assets', express.static(assets, { index: false, maxAge: '1h' }));
  app.use(keepOutOfCaches);
  app.use(refuseOtherSites(views), sessions({ ...credentials, secret: options.sessionSecret }));
  app.use(loginRoutes({ credentials, views, log, metrics: health.metrics }));
  app.use(requireSession);
  app.use(board.path, board.handler);
  app.use(
    overviewPage({ ...options, views }),
    orderPages({ ...options, views }),
    workPage({ ...options, views }),
    heldPage({ ...options, views }),
  );
  app.use(unknownPage(views));
  app.use(errorPage(views, log));
  return app;
}

/**
 * Nothing runs or loads that is not ours. Bull Board would fetch a font from Google, which would tell it who looks at
 * this page when: it is refused, and system fonts are shown.
 *
 * @param boardPath where styles may stand in the page: Bull Board's start screen and its toasts bring their own. The
 *   scripts there are as strict as everywhere
 */
function securityHeaders(boardPath: string): RequestHandler {
  return helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        styleSrc: ["'self'", (request) => (isBelow(boardPath, request) ? "'unsafe-inline'" : "'self'")],
        imgSrc: ["'self'", 'data:'],
        connectSrc: ["'self'"],
        baseUri: ["'self'"],
        formAction: ["'self'"],
        frameAncestors: ["'none'"],
      },
    },
    // helmet's own choice, no-referrer, makes browsers send `Origin: null` with our own forms.
    referrerPolicy: { policy: 'same-origin' },
  });
}

function isBelow(path: string, { url = '' }: IncomingMessage): boolean {
  return url === path || url.startsWith(`${path}/`);
}

/** What is behind the login stays out of the browser's cache; the scripts of Bull Board are no secret. */
const keepOutOfCaches: RequestHandler = (request, response, next) => {
  if (!request.path.startsWith('/queues/static/')) response.setHeader('Cache-Control', 'no-store');
  next();
};
