import { hash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';

/**
 * Makes the check of the API key. Digests are compared, in constant time, so that neither the length nor the content of
 * the key can be measured.
 */
export function apiKeyCheck(apiKey: string): (headers: IncomingHttpHeaders) => boolean {
  const expected = digest(apiKey);
  return ({ authorization = '' }) => {
    const presented = /^Bearer +([^ ]+) *$/i.exec(authorization)?.[1];
    return presented !== undefined && timingSafeEqual(digest(presented), expected);
  };
}

function digest(text: string): Buffer {
  return hash('sha256', text, 'buffer');
}
