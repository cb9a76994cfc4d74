import type { Request, RequestHandler } from 'express';
import type { Views } from '../views.ts';

/** Refuses requests that change something and come from the page of another site, whatever cookies they carry. */
export function refuseOtherSites(views: Views): RequestHandler {
  return (request, response, next) => {
    if (['GET', 'HEAD', 'OPTIONS'].includes(request.method) || isFromHere(request)) {
      next();
      return;
    }
    const text = 'This request came from another site. Open the page here and try again.';
    response.status(403).send(views.render('message', { title: 'Refused', text }));
  };
}

/**
 * Browsers say where a request comes from: in Sec-Fetch-Site where the connection can be trusted, else in Origin. What
 * has neither is no browser, and nobody's cookies can be borrowed.
 */
function isFromHere(request: Request): boolean {
  const site = request.get('sec-fetch-site');
  if (site !== undefined) return site === 'same-origin' || site === 'none';
  const origin = request.get('origin');
  if (origin === undefined) return true;
  return URL.canParse(origin) && new URL(origin).host === request.host;
}
