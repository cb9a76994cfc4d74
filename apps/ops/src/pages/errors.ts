import { DatabaseUnavailable, type Log } from '@lapse/runtime';
import type { ErrorRequestHandler, RequestHandler } from 'express';
import type { Views } from '../views.ts';

/** Answers what no route took. */
export function unknownPage(views: Views): RequestHandler {
  return (_request, response) => {
    response
      .status(404)
      .send(views.render('message', { title: 'Not found', text: 'There is no such page.', nav: '' }));
  };
}

/** Answers what a route threw, without telling more than the reader can use. */
export function errorPage(views: Views, log: Log): ErrorRequestHandler {
  return (error: unknown, request, response, next) => {
    if (response.headersSent) {
      next(error);
      return;
    }
    if (error instanceof DatabaseUnavailable) {
      response.status(503).setHeader('Retry-After', '5');
      const text =
        'The database does not answer, so nothing can be shown. Orders are safe; reload in a moment.';
      response.send(views.render('message', { title: 'PostgreSQL cannot be reached', text, nav: '' }));
      return;
    }
    const status = clientStatus(error);
    if (status !== undefined) {
      response.status(status);
      response.send(views.render('message', { title: 'Not understood', text: 'This request is not valid.' }));
      return;
    }
    log.error({ err: error, method: request.method, path: request.path }, 'request failed');
    const text = 'Something is broken on our side. The log of ops says what.';
    response.status(500).send(views.render('message', { title: 'Failed', text }));
  };
}

/** The 4xx that Express or its body parser gave to an error of the request. */
function clientStatus(error: unknown): number | undefined {
  if (error instanceof URIError) return 400;
  const status = error instanceof Error && 'status' in error ? error.status : undefined;
  return typeof status === 'number' && status >= 400 && status < 500 ? status : undefined;
}
