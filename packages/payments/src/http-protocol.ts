import { z } from 'zod';
import type { Notice } from './provider.ts';

// The words of docs/providers.md, as the service says them. It may say more: other fields are left out.

// Names and texts of the service end up in PostgreSQL: no character that it refuses, no more than its columns take.

/** A name that the service gave. */
const givenName = z
  .string()
  .regex(/^[^\p{Cc}\p{Cs}]{1,255}$/u, 'must have 1 to 255 characters, no control characters');

const reasonText = z.string().transform((text) =>
  text
    .replaceAll(/\p{Cc}+/gu, ' ')
    .slice(0, 500)
    .toWellFormed(),
);

/** A text for the customer, line breaks and all. */
const shown = z
  .string()
  .min(1)
  .max(4000)
  .refine((text) => text.isWellFormed() && !text.includes('\0'), 'must be Unicode without NUL');

const captureSchema = z.object({
  providerPaymentId: givenName,
  amount: z.int().positive(),
  currency: z.string().regex(/^[A-Z]{3}$/, 'must be an ISO 4217 code in capitals'),
});

/** What opening an attempt answers. */
export const openedSchema = z.object({
  attemptId: z.string(),
  providerAttemptId: givenName,
  handOff: z
    .object({
      // The shop sends its customer there: no javascript: or data: URL.
      url: z
        .url({ protocol: /^https?$/ })
        .max(4000)
        .exactOptional(),
      clientSecret: shown.exactOptional(),
      instructions: shown.exactOptional(),
    })
    .refine((given) => Object.keys(given).length > 0, 'must have url, clientSecret or instructions'),
});

/** What closing and looking at an attempt answer. */
export const attemptSchema = z.discriminatedUnion('status', [
  z.object({ attemptId: z.string(), status: z.enum(['open', 'closed', 'processing']) }),
  z.object({ attemptId: z.string(), status: z.literal('paid'), capture: captureSchema }),
]);

/** What sending and finding a refund answer. */
export const refundSchema = z.discriminatedUnion('status', [
  z.object({ refundId: z.string(), status: z.enum(['sent', 'confirmed']), providerRefundId: givenName }),
  z.object({ refundId: z.string(), status: z.literal('failed'), reason: reasonText }),
  z.object({ refundId: z.string(), status: z.literal('none') }),
]);

/** Why a call is refused (RFC 9457, with a `code`). */
export const problemSchema = z.object({
  code: z.string().regex(/^[a-z0-9_]{1,64}$/),
  detail: reasonText.exactOptional(),
});

/** What every webhook is. */
export const envelopeSchema = z.object({ type: z.string(), data: z.unknown().optional() });

/** An id of ours. One that is not is none: a payment whose order cannot be read is a payment all the same. */
const ourId = z
  .guid()
  .nullish()
  .catch(null)
  .transform((id) => id ?? null);

const attemptNamed = z.object({
  attemptId: ourId,
  orderId: ourId,
  providerAttemptId: givenName.nullish().transform((id) => id ?? null),
});

/** A notice that an attempt ended is of no use without one; only money is worth a look by a person. */
const oneAttemptNamed = attemptNamed.refine(
  ({ attemptId, providerAttemptId }) => attemptId !== null || providerAttemptId !== null,
  'must name the attempt: attemptId or providerAttemptId',
);

const refundNamed = z.object({ refundId: ourId, providerRefundId: givenName });

/** Each type of webhook, and the notice that its data are. */
export const noticeSchemas: ReadonlyMap<string, z.ZodType<Notice>> = new Map<string, z.ZodType<Notice>>([
  [
    'attempt.paid',
    attemptNamed.extend({ capture: captureSchema }).transform((data) => ({ kind: 'paid' as const, ...data })),
  ],
  ['attempt.closed', oneAttemptNamed.transform((data) => ({ kind: 'closed' as const, ...data }))],
  ['attempt.processing', oneAttemptNamed.transform((data) => ({ kind: 'processing' as const, ...data }))],
  ['refund.confirmed', refundNamed.transform((data) => ({ kind: 'refund_confirmed' as const, ...data }))],
  [
    'refund.failed',
    refundNamed
      .extend({ reason: reasonText })
      .transform((data) => ({ kind: 'refund_failed' as const, ...data })),
  ],
]);

/** Undefined where it is no JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The first thing that is wrong, with its path. */
export function issueOf({ issues: [issue] }: z.ZodError): string {
  if (issue === undefined) return 'it does not fit';
  return issue.path.length === 0 ? issue.message : `${issue.path.join('.')}: ${issue.message}`;
}
