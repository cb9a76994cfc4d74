import type { Deadlines } from '@lapse/deadlines';
import type { Orders } from '@lapse/orders';
import type { Notice, PaymentProvider } from '@lapse/payments';
import { Counter, type Log, type Metrics } from '@lapse/runtime';
import express, { Router, type RequestHandler } from 'express';
import { isUuid } from '../parse.ts';
import { Problem } from '../problem.ts';
import { disarmed } from './orders.ts';

/** The most bytes a provider's webhook may have: Stripe's largest have about 100 KB. */
const maxWebhookBytes = 512 * 1024;

/**
 * The providers' webhooks. Their signature is their key: it is checked over the bytes as they came, before anything is
 * read. What is told is kept before it is answered, so a provider that gets no 200 may tell it again.
 */
export function hookRoutes(options: {
  orders: Orders;
  deadlines: Deadlines;
  providers: ReadonlyMap<string, PaymentProvider>;
  log: Log;
  metrics: Metrics;
}): Router {
  const { providers, log, metrics } = options;
  const registers = [metrics];
  const webhooks = new Counter({
    name: 'lapse_provider_webhooks_total',
    help: 'Webhooks of payment providers, by what they were',
    labelNames: ['provider', 'outcome'],
    registers,
  });
  const notices = new Counter({
    name: 'lapse_provider_notices_total',
    help: 'What genuine webhooks told, by what came of it',
    labelNames: ['provider', 'kind', 'result'],
    registers,
  });
  const router = Router();

  const receive: RequestHandler<{ provider: string }> = async (request, response) => {
    const { provider: name } = request.params;
    const provider = providers.get(name);
    if (provider === undefined) throw new Problem('not_found', `There is no provider '${name}'.`);
    const body: unknown = request.body;
    const answer = provider.readWebhook({
      body: Buffer.isBuffer(body) ? body : Buffer.alloc(0),
      headers: Object.fromEntries(
        Object.entries(request.headers).map(([header, value]) => [header, value?.toString()]),
      ),
    });
    webhooks.inc({ provider: name, outcome: answer.outcome });
    if (answer.outcome !== 'genuine') {
      log.warn({ provider: name, outcome: answer.outcome, reason: answer.reason }, 'webhook was refused');
      throw new Problem(answer.outcome === 'forged' ? 'unauthorized' : 'invalid_request', answer.reason);
    }
    for (const notice of answer.notices) {
      const result = await keep(options, name, notice);
      notices.inc({ provider: name, kind: notice.kind, result });
      log.info({ provider: name, kind: notice.kind, result }, 'provider told');
    }
    response.json({ received: true });
  };
  router.post('/hooks/:provider', express.raw({ type: () => true, limit: maxWebhookBytes }), receive);
  return router;
}

/**
 * Whether a notice is of a page that nobody was sent to: one whose opening was not answered, so that it was opened under
 * another key again. That it expired says nothing about the one that the customer has.
 */
function isOfAnotherPage(
  { providerAttemptId: told }: { readonly providerAttemptId: string | null },
  { providerAttemptId: known }: { readonly providerAttemptId: string | null },
): boolean {
  return told !== null && known !== null && told !== known;
}

/** Keeps what a provider told. @returns what came of it, for the metrics */
async function keep(
  { orders, deadlines }: { orders: Orders; deadlines: Deadlines },
  provider: string,
  notice: Notice,
): Promise<string> {
  const actor = `webhook:${provider}`;
  if (notice.kind === 'refund_confirmed' || notice.kind === 'refund_failed') {
    const { refundId, providerRefundId } = notice;
    const verdict =
      notice.kind === 'refund_confirmed'
        ? { state: 'confirmed' as const, providerRefundId, actor }
        : { state: 'refused' as const, reason: notice.reason, providerRefundId, actor };
    const name = isUuid(refundId) ? { refundId } : { provider, providerRefundId };
    return (await orders.recordRefund(name, verdict)) ?? 'had_ended';
  }
  const attempt = await orders.findAttempt({
    provider,
    attemptId: isUuid(notice.attemptId) ? notice.attemptId : null,
    providerAttemptId: notice.providerAttemptId,
  });
  if (notice.kind !== 'paid') {
    if (attempt === undefined) return 'attempt_not_found';
    if (isOfAnotherPage(notice, attempt)) return 'another_page';
    const kept = await orders.recordVerdict({ attemptId: attempt.id, verdict: notice.kind, actor });
    return kept.outcome;
  }
  const named = isUuid(notice.orderId) ? notice.orderId : null;
  const paid = await orders.pay({
    ...notice.capture,
    orderId: attempt?.orderId ?? named,
    provider,
    verified: true,
    attemptId: attempt?.id,
    actor,
  });
  if (paid.outcome === 'paid') await disarmed(paid.order, deadlines);
  return paid.outcome;
}
