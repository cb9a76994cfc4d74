import { isUtf8 } from 'node:buffer';
import { randomUUID, timingSafeEqual } from 'node:crypto';
import { Webhook as Signer } from 'standardwebhooks';
import type { Webhook } from './provider.ts';

/** How far the time of a signature may lie from ours, either way, ms: as Standard Webhooks has it. */
const toleranceMs = 5 * 60_000;

/** Signs and checks messages as Standard Webhooks say. */
export interface Signatures {
  /** The headers that go with a body: a new id, the time, and a signature by each secret. */
  sign(body: string): Record<'webhook-id' | 'webhook-timestamp' | 'webhook-signature', string>;
  /** Whether a message carries a signature by one of the secrets, and a young one; its body as text. */
  check(
    message: Webhook,
  ):
    | { readonly outcome: 'genuine'; readonly text: string }
    | { readonly outcome: 'forged' | 'stale'; readonly reason: string };
}

/**
 * Signatures by a secret, `whsec_…`. While it is being changed there are two, apart by a space or a comma: messages are
 * signed by both, and one by either is genuine.
 *
 * @throws Error where a secret is not base64
 */
export function signatures(secret: string): Signatures {
  const signers = secret.split(/[\s,]+/).map((one) => new Signer(one));

  return {
    sign(body) {
      const id = `msg_${randomUUID()}`;
      const at = new Date();
      return {
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
        'webhook-signature': signers.map((signer) => signer.sign(id, at, body)).join(' '),
      };
    },

    check({ body, headers }) {
      const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature } = headers;
      if (id === undefined || timestamp === undefined || signature === undefined) {
        return forged('It is not signed: webhook-id, webhook-timestamp and webhook-signature are needed.');
      }
      // Id, time and body are signed joined by dots: with a dot in the id, a part of the body could pass as the time.
      if (!/^[!-\-/-~]{1,255}$/.test(id)) return forged('webhook-id must be printable ASCII without a dot.');
      if (!/^\d{1,12}$/.test(timestamp)) return forged('webhook-timestamp must be whole seconds since 1970.');
      // Other bytes are replaced when they become text, so that two bodies would have one signature.
      if (!isUtf8(body)) return forged('The body is not UTF-8.');
      const text = body.toString('utf8');
      const signedAt = new Date(Number(timestamp) * 1000);
      // The library's own check looks at the time first, and tells apart by its words only: a forged message that is old
      // would pass for a stale one.
      const expected = signers.map((signer) => signer.sign(id, signedAt, text));
      const isGenuine = signature.split(' ').some((one) => expected.some((other) => isSame(one, other)));
      if (!isGenuine) return forged('The signature is not one of this body by our secret.');
      const ageMs = Date.now() - signedAt.getTime();
      if (Math.abs(ageMs) > toleranceMs) {
        const seconds = Math.round(Math.abs(ageMs) / 1000);
        return {
          outcome: 'stale',
          reason: `It was signed ${seconds} s ${ageMs > 0 ? 'ago' : 'ahead of our clock'}; the limit is ${toleranceMs / 1000} s.`,
        };
      }
      return { outcome: 'genuine', text };
    },
  };
}

function forged(reason: string) {
  return { outcome: 'forged', reason } as const;
}

/** Compares in constant time. How long a signature is, is no secret. */
function isSame(one: string, other: string): boolean {
  const [a, b] = [Buffer.from(one), Buffer.from(other)];
  return a.length === b.length && timingSafeEqual(a, b);
}
