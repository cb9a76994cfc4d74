import { createHmac } from 'node:crypto';
import cookieSession from 'cookie-session';
import type { Request, RequestHandler } from 'express';

/** How long a login lasts, ms. */
const sessionMs = 12 * 60 * 60 * 1000;

/**
 * Keeps who is logged in in a signed cookie. The key is drawn from the password too, so that a new password ends every
 * session. Over https, the proxy's included, the cookie is `secure`.
 */
export function sessions(options: { user: string; password: string; secret: string }): RequestHandler {
  const { user, password, secret } = options;
  const key = createHmac('sha256', secret)
    .update(JSON.stringify([user, password]))
    .digest('base64url');
  return cookieSession({
    name: 'lapse_ops',
    keys: [key],
    maxAge: sessionMs,
    httpOnly: true,
    sameSite: 'strict',
    path: '/',
  });
}

/** Begins a session. */
export function signIn(request: Request, user: string): void {
  request.session = { user, until: Date.now() + sessionMs };
}

/** Ends the session in this browser. */
export function signOut(request: Request): void {
  request.session = null;
}

/** Whether somebody is logged in. The end of a session is in the signed part, not only in the browser's hands. */
export function isSignedIn(request: Request): boolean {
  const until: unknown = request.session?.['until'];
  return typeof until === 'number' && until > Date.now();
}

/** Who is logged in, as whom they act. */
export function userOf(request: Request): string {
  const user: unknown = request.session?.['user'];
  return typeof user === 'string' ? user : 'unknown';
}

/** Lets nobody pass without a session: pages lead to the login, everything else is answered with 401. */
export const requireSession: RequestHandler = (request, response, next) => {
  if (isSignedIn(request)) {
    next();
  } else if (['GET', 'HEAD'].includes(request.method) && request.accepts(['json', 'html']) === 'html') {
    response.redirect(303, `/login?next=${encodeURIComponent(request.originalUrl)}`);
  } else {
    response.status(401).json({ error: 'Sign in first.' });
  }
};
