import { createHash, timingSafeEqual } from 'node:crypto';
import { Counter, type Log, type Metrics } from '@lapse/runtime';
import express, { Router } from 'express';
import { fieldOf } from '../form.ts';
import type { Views } from '../views.ts';
import { LoginLimiter } from './limiter.ts';
import { localPage } from './local-page.ts';
import { isSignedIn, signIn, signOut } from './session.ts';

/** Who may look. */
export interface Credentials {
  readonly user: string;
  readonly password: string;
}

/** Login and logout. */
export function loginRoutes(options: {
  credentials: Credentials;
  views: Views;
  log: Log;
  metrics: Metrics;
}): Router {
  const { credentials, views, log, metrics } = options;
  const limiter = new LoginLimiter();
  const failures = new Counter({
    name: 'lapse_ops_login_failures_total',
    help: 'Logins that were refused',
    labelNames: ['reason'],
    registers: [metrics],
  });
  const router = Router();

  router.get('/login', (request, response) => {
    const next = localPage(fieldOf(request.query, 'next'));
    if (isSignedIn(request)) response.redirect(303, next);
    else response.send(views.render('login', { next }));
  });

  router.post('/login', express.urlencoded({ extended: false, limit: '8kb' }), (request, response) => {
    const body: unknown = request.body;
    const user = fieldOf(body, 'user');
    const next = localPage(fieldOf(body, 'next'));
    const address = request.ip ?? 'unknown';

    const waitMs = limiter.take(address);
    if (waitMs > 0) {
      failures.inc({ reason: 'limited' });
      log.warn({ address }, 'login limited');
      const minutes = Math.ceil(waitMs / 60_000);
      response.status(429).setHeader('Retry-After', Math.ceil(waitMs / 1000));
      response.send(
        views.render('login', { next, user, problem: `Too many tries. Wait ${minutes} min and try again.` }),
      );
      return;
    }
    if (!isRight(credentials, { user, password: fieldOf(body, 'password') })) {
      failures.inc({ reason: 'wrong' });
      // The name could be a password in the wrong field, so it is not logged either.
      log.warn({ address }, 'login failed');
      response.status(401).send(views.render('login', { next, user, problem: 'User or password is wrong.' }));
      return;
    }
    limiter.forgive(address);
    signIn(request, user);
    log.info({ address, user }, 'logged in');
    response.redirect(303, next);
  });

  router.post('/logout', (request, response) => {
    signOut(request);
    response.redirect(303, '/login');
  });

  return router;
}

/** Digests are compared, in constant time, and always both. */
function isRight(expected: Credentials, given: Credentials): boolean {
  const user = timingSafeEqual(digest(given.user), digest(expected.user));
  const password = timingSafeEqual(digest(given.password), digest(expected.password));
  return user && password;
}

function digest(secret: string): Buffer {
  return createHash('sha256').update(secret).digest();
}
