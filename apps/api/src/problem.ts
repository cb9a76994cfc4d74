import { BatcherFull, DatabaseUnavailable, type Log } from '@lapse/runtime';
import type { ErrorRequestHandler, RequestHandler } from 'express';
import { writeAnswer, type Answer } from './answer.ts';

/** Every code an answer of the API can carry, with its HTTP status and title. Codes are stable. */
const codes = {
  invalid_request: [400, 'The request is not valid'],
  unauthorized: [401, 'The API key is missing or wrong'],
  not_found: [404, 'There is nothing here'],
  order_not_found: [404, 'There is no such order'],
  order_already_paid: [409, 'The order is paid'],
  order_not_pending: [409, 'The order is not waiting for a payment'],
  order_closing: [409, 'The order is being closed'],
  already_decided: [409, 'The payment is not on the work list'],
  out_of_stock: [409, 'There is not enough stock'],
  stock_below_held: [409, 'Pending orders hold more than that'],
  payment_conflict: [409, 'The payment was recorded for another order'],
  idempotency_in_progress: [409, 'The same request is still running'],
  payload_too_large: [413, 'The body is too large'],
  provider_refused: [422, 'The payment provider refused'],
  unknown_sku: [422, 'There is no such SKU'],
  idempotency_key_reused: [422, 'The idempotency key was used for another request'],
  internal_error: [500, 'Something is broken on our side'],
  unavailable: [503, 'The service cannot answer at the moment'],
} as const satisfies Record<string, readonly [status: number, title: string]>;

/** A stable name of what went wrong. */
export type ProblemCode = keyof typeof codes;

/** What is wrong with one field of a request. */
export interface FieldError {
  /** Path of the field, for example `items[0].quantity`; empty for the body itself. */
  readonly field: string;
  readonly message: string;
}

/** An answer that says what is wrong, and how to mend it. Thrown by routes, written as RFC 9457 problem details. */
export class Problem extends Error {
  readonly code: ProblemCode;
  readonly details: { readonly errors?: readonly FieldError[]; readonly skus?: readonly string[] };

  constructor(code: ProblemCode, message: string, details: Problem['details'] = {}) {
    super(message);
    this.name = 'Problem';
    this.code = code;
    this.details = details;
  }
}

/** The problem of a field that is well formed, but not what the stored rows allow. */
export function invalidField(field: string, message: string): Problem {
  return new Problem('invalid_request', `${field}: ${message}`, { errors: [{ field, message }] });
}

/** The problem of a body that cannot be read. */
export function notJson(): Problem {
  return new Problem('invalid_request', 'The body is not JSON in UTF-8.');
}

/** Answers what no route took. */
export const unknownRoute: RequestHandler = (request) => {
  throw new Problem('not_found', `There is no ${request.method} ${request.path}.`);
};

/** Answers errors in Express. */
export function problemHandler(log: Log): ErrorRequestHandler {
  return (error: unknown, request, response, next) => {
    const answer = answerProblem(error, { log, method: request.method, path: request.path });
    if (response.headersSent) next(error);
    else writeAnswer(response, answer);
  };
}

/** The answer to a call that failed, as `application/problem+json`. What is not the client's is logged. */
export function answerProblem(
  error: unknown,
  { log, ...call }: { readonly log: Log; readonly method: string | undefined; readonly path: string },
): Answer {
  const problem = toProblem(error);
  if (problem.code === 'internal_error') log.error({ err: error, ...call }, 'request failed');
  const [status, title] = codes[problem.code];
  return {
    status,
    headers: {
      'Content-Type': 'application/problem+json; charset=utf-8',
      ...(status === 503 ? { 'Retry-After': '1' } : {}),
      ...(status === 401 ? { 'WWW-Authenticate': 'Bearer' } : {}),
    },
    body: {
      type: `urn:lapse:problem:${problem.code}`,
      title,
      status,
      code: problem.code,
      detail: problem.message,
      ...problem.details,
    },
  };
}

function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof DatabaseUnavailable || error instanceof BatcherFull) {
    return new Problem('unavailable', 'Nothing was changed, or it cannot be told. Repeat the request.');
  }
  if (error instanceof URIError) return new Problem('invalid_request', 'The path is not a valid URI.');
  switch (refusedStatus(error)) {
    case undefined:
      return new Problem('internal_error', 'Try again; if it persists, look at the log of the api.');
    case 413:
      return new Problem('payload_too_large', 'A body may have 128 KiB at most.');
    default:
      return notJson();
  }
}

/** The 4xx that the body parser wants for a body it cannot read. */
function refusedStatus(error: unknown): number | undefined {
  if (!(error instanceof Error && 'status' in error)) return undefined;
  const { status } = error;
  return typeof status === 'number' && status >= 400 && status < 500 ? status : undefined;
}
