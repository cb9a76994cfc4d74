import { Stripe } from 'stripe';
import { z } from 'zod';
import type { Notice, Webhook, WebhookAnswer } from '../provider.ts';
import { fromStripe } from './amounts.ts';
import { attemptIn, isForm, refundIn } from './metadata.ts';

/** What was signed longer ago may be a replay by somebody who listened, seconds. Stripe signs every delivery anew. */
const toleranceSeconds = 300;

/**
 * Reads a webhook of Stripe's.
 *
 * @param secret `whsec_…`, of the endpoint at Stripe
 * @param now ms since 1970
 */
export function readWebhook(webhook: Webhook, secret: string, now: number): WebhookAnswer {
  const read = construct(webhook, secret, toleranceSeconds, now);
  if (read === 'unsigned') {
    // Without a limit of age it is either what it seems, and old, or forged.
    return construct(webhook, secret, 0, now) === 'unsigned'
      ? { outcome: 'forged', reason: 'No signature of it fits its body and the secret of the endpoint.' }
      : { outcome: 'stale', reason: `It was signed more than ${toleranceSeconds} s ago.` };
  }
  if ('problem' in read) return { outcome: 'malformed', reason: read.problem };
  try {
    const { type, data } = eventSchema.parse(read.event);
    return { outcome: 'genuine', notices: noticesOf(type, data.object) };
  } catch (error) {
    if (error instanceof z.ZodError) return { outcome: 'malformed', reason: z.prettifyError(error) };
    throw error;
  }
}

/** Checks the signature, in constant time, and then reads. */
function construct(
  { body, headers }: Webhook,
  secret: string,
  tolerance: number,
  now: number,
): { readonly event: unknown } | { readonly problem: string } | 'unsigned' {
  const signature = headers['stripe-signature'] ?? '';
  try {
    return { event: Stripe.webhooks.constructEvent(body, signature, secret, tolerance, undefined, now) };
  } catch (error) {
    if (error instanceof Stripe.errors.StripeSignatureVerificationError) return 'unsigned';
    return { problem: error instanceof Error ? error.message : String(error) };
  }
}

/**
 * What an event tells. Of one payment there are several, and each names it by its PaymentIntent. Money and refunds that
 * are not ours, and types that are not listed here, tell nothing.
 */
function noticesOf(type: string, object: unknown): readonly Notice[] {
  switch (type) {
    case 'checkout.session.completed':
    case 'checkout.session.async_payment_succeeded':
      return completedPage(pageSchema.parse(object));
    case 'checkout.session.expired': {
      const { id, payment_intent, metadata } = pageSchema.parse(object);
      // Who began to pay may be at their bank, and come back with the money: then the question before the cancellation
      // decides.
      return payment_intent === null ? named('closed', metadata, id) : [];
    }
    // The page was completed before, and cannot be used again.
    case 'checkout.session.async_payment_failed': {
      const { id, metadata } = pageSchema.parse(object);
      return named('closed', metadata, id);
    }
    case 'payment_intent.succeeded': {
      const intent = intentSchema.parse(object);
      const { id, amount_received, currency, metadata } = intent;
      return paid(metadata, attemptOf(intent), { providerPaymentId: id, amount: amount_received, currency });
    }
    case 'payment_intent.processing': {
      const intent = intentSchema.parse(object);
      return named('processing', intent.metadata, attemptOf(intent));
    }
    // `payment_failed` is not listed: the customer may try again.
    case 'payment_intent.canceled': {
      const intent = intentSchema.parse(object);
      return named('closed', intent.metadata, attemptOf(intent));
    }
    // Older API versions put the refunds into the charge; newer ones tell of each by itself.
    case 'charge.refunded':
      return chargeSchema.parse(object).refunds.flatMap(refundNotices);
    case 'refund.created':
    case 'refund.updated':
    case 'refund.failed':
    case 'charge.refund.updated':
      return refundNotices(refundSchema.parse(object));
    default:
      return [];
  }
}

function completedPage(page: z.output<typeof pageSchema>): readonly Notice[] {
  const { id, payment_status, payment_intent, amount_total, currency, metadata } = page;
  switch (payment_status) {
    case 'paid':
      return paid(metadata, id, { providerPaymentId: payment_intent, amount: amount_total, currency });
    // The customer chose a debit or a voucher: the money is on its way.
    case 'unpaid':
      return named('processing', metadata, id);
    default:
      return [];
  }
}

function paid(
  metadata: Record<string, string>,
  providerAttemptId: string | null,
  capture: { [Field in keyof z.input<typeof captureSchema>]: unknown },
): readonly Notice[] {
  const ours = attemptIn(metadata);
  if (ours === undefined) return [];
  return [{ kind: 'paid', capture: captureSchema.parse(capture), providerAttemptId, ...ours }];
}

/**
 * The attempt that a PaymentIntent is. One that nobody has the secret of, because its opening was not answered, is told
 * from the customer's by this. That of a page does not say which page it is of: there our id alone names the attempt.
 */
function attemptOf({ id, metadata }: z.output<typeof intentSchema>): string | null {
  return isForm(metadata) ? id : null;
}

function named(
  kind: 'closed' | 'processing',
  metadata: Record<string, string>,
  providerAttemptId: string | null,
): readonly Notice[] {
  const ours = attemptIn(metadata);
  return ours === undefined ? [] : [{ kind, providerAttemptId, ...ours }];
}

function refundNotices(refund: z.output<typeof refundSchema>): readonly Notice[] {
  const { id, status, failure_reason, metadata } = refund;
  const refundId = refundIn(metadata);
  // A refund that a person made in Stripe's dashboard.
  if (refundId === null) return [];
  switch (status) {
    case 'succeeded':
      return [{ kind: 'refund_confirmed', refundId, providerRefundId: id }];
    case 'failed':
    case 'canceled':
      return [{ kind: 'refund_failed', refundId, providerRefundId: id, reason: failure_reason ?? status }];
    default:
      return [];
  }
}

// The shop's endpoint may be set to another API version than ours: these are the fields that every version has.

const metadataSchema = z
  .record(z.string(), z.string())
  .nullish()
  .transform((metadata) => metadata ?? {});

const eventSchema = z.object({
  object: z.literal('event'),
  type: z.string(),
  data: z.object({ object: z.unknown() }),
});

const pageSchema = z.object({
  id: z.string(),
  payment_status: z.string(),
  // Null until the customer tries to pay; older versions make it with the page. Null in other modes, which are not ours.
  payment_intent: z.string().nullish(),
  amount_total: z.number().nullish(),
  currency: z.string().nullish(),
  metadata: metadataSchema,
});

const intentSchema = z.object({
  id: z.string(),
  amount_received: z.number(),
  currency: z.string(),
  metadata: metadataSchema,
});

const refundSchema = z.object({
  id: z.string(),
  status: z
    .string()
    .nullish()
    .transform((status) => status ?? 'in no state'),
  failure_reason: z.string().nullish(),
  metadata: metadataSchema,
});

const chargeSchema = z.object({
  refunds: z
    .object({ data: z.array(refundSchema) })
    .nullish()
    .transform((refunds) => refunds?.data ?? []),
});

const captureSchema = z
  .object({ providerPaymentId: z.string(), amount: z.number(), currency: z.string() })
  .transform(({ providerPaymentId, amount, currency }, context) => {
    const counted = fromStripe(amount, currency);
    if (counted !== undefined)
      return { providerPaymentId, amount: counted, currency: currency.toUpperCase() };
    context.addIssue(`${amount} ${currency} cannot be counted`);
    return z.NEVER;
  });
