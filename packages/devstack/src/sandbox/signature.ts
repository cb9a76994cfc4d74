import { randomUUID } from 'node:crypto';
import { Webhook } from 'standardwebhooks';

/**
 * The headers that Standard Webhooks ask for with `body`.
 *
 * @param secret `whsec_…`; several, apart by spaces or commas, sign each
 * @param options.id default: a new one
 * @param options.at when it was signed; default: now
 */
export function signedHeaders(
  secret: string,
  body: string,
  { id = `msg_${randomUUID()}`, at = new Date() }: { readonly id?: string; readonly at?: Date } = {},
): Record<'webhook-id' | 'webhook-timestamp' | 'webhook-signature', string> {
  return {
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
    'webhook-signature': signersOf(secret)
      .map((signer) => signer.sign(id, at, body))
      .join(' '),
  };
}

/** Whether `body` is signed with one of the secrets, at most five minutes ago. */
export function isSigned(
  secret: string,
  body: string,
  headers: Readonly<Record<string, string | string[] | undefined>>,
): boolean {
  const given = Object.fromEntries(
    Object.entries(headers).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
  return signersOf(secret).some((signer) => {
    try {
      signer.verify(body, given, { jsonParse: false });
      return true;
    } catch {
      // It throws for nothing else than a signature, a time or headers that it does not like.
      return false;
    }
  });
}

function signersOf(secret: string): readonly Webhook[] {
  return secret.split(/[\s,]+/).map((one) => new Webhook(one));
}
