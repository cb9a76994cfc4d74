import type { IncomingHttpHeaders, ServerResponse } from 'node:http';

/** A call as its handler needs it, whoever carries it: Express, or the fast lane. */
export interface Call {
  readonly headers: IncomingHttpHeaders;
  /** What stands in the path, for example `id`. */
  readonly params: Readonly<Record<string, string | string[] | undefined>>;
  /** The parsed JSON; undefined where there was none. */
  readonly body?: unknown;
}

/** What a call is answered. */
export interface Answer {
  readonly status: number;
  /** Beside those that every answer has; `Content-Type` where it is not plain JSON. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: object;
}

/** Answers a call. @throws Problem, or what broke */
export type Handler = (call: Call) => Promise<Answer>;

/** Writes an answer as JSON, in one piece. */
export function writeAnswer(response: ServerResponse, { status, headers, body }: Answer): void {
  const json = JSON.stringify(body);
  response
    .writeHead(status, {
      'Content-Type': 'application/json; charset=utf-8',
      'Content-Length': Buffer.byteLength(json),
      ...headers,
    })
    .end(json);
}
