import { createHash, timingSafeEqual } from 'node:crypto';
import type { RequestHandler } from 'express';
import { Problem } from './problem.ts';

/**
 * Lets requests with the API key pass. Digests are compared, in constant time, so that neither the length nor the
 * content of the key can be measured.
 */
export function requireApiKey(apiKey: string): RequestHandler {
  const expected = digest(apiKey);
  return (request, _response, next) => {
    const [, presented] = /^Bearer +([^ ]+) *$/i.exec(request.headers.authorization ?? '') ?? [];
    if (presented === undefined || !timingSafeEqual(digest(presented), expected)) {
      throw new Problem('unauthorized', 'Send the API key as `Authorization: Bearer <key>`.');
    }
    next();
  };
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
