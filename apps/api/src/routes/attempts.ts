import type { Orders, PaymentAttempt } from '@lapse/orders';
import { describeAttempt, type PaymentProvider } from '@lapse/payments';
import { Router } from 'express';
import { z } from 'zod';
import { parseBody, parseOrderId, text } from '../parse.ts';
import { Problem } from '../problem.ts';
import { orderNotFound } from './orders.ts';

const attemptBody = z.strictObject({
  provider: text(64),
  as: z.enum(['url', 'client_secret']).default('url'),
  returnUrl: z
    .url({ protocol: /^https?$/, error: 'must be an http:// or https:// URL' })
    .max(2048)
    .nullable()
    .default(null),
});

/** Payment attempts: open one with a provider, and list those of an order. */
export function attemptRoutes(options: {
  orders: Orders;
  providers: ReadonlyMap<string, PaymentProvider>;
}): Router {
  const { orders, providers } = options;
  const router = Router();

  router.post('/v1/orders/:id/payment-attempts', async (request, response) => {
    const orderId = parseOrderId(request);
    const { provider: name, as: handOffAs, returnUrl } = parseBody(attemptBody, request);
    const provider = providers.get(name);
    if (provider === undefined) {
      const known = [...providers.keys()].join(', ');
      throw new Problem('invalid_request', `provider: '${name}' is not connected; there is ${known}`, {
        errors: [{ field: 'provider', message: `must be one of ${known}` }],
      });
    }
    const begun = await orders.beginAttempt({ orderId, provider: name, handOffAs, returnUrl, actor: 'api' });
    switch (begun.outcome) {
      case 'order_not_found':
        throw orderNotFound(orderId);
      case 'not_pending':
        throw new Problem('order_not_pending', `It is ${begun.order.status}.`);
      case 'order_closing':
        throw closing();
      case 'open':
        response.json(presentAttempt(begun.attempt));
        return;
      case 'opening':
        response.status(201).json(presentAttempt(await openAtProvider(orders, provider, begun)));
    }
  });

  router.get('/v1/orders/:id/payment-attempts', async (request, response) => {
    const orderId = parseOrderId(request);
    const [order, attempts] = await Promise.all([orders.find(orderId), orders.attempts(orderId)]);
    if (order === undefined) throw orderNotFound(orderId);
    response.json({ data: attempts.map(presentAttempt) });
  });

  return router;
}

/** Opens an attempt at its provider. A repetition of the call does the same again, which opens nothing twice. */
async function openAtProvider(
  orders: Orders,
  provider: PaymentProvider,
  {
    attempt,
    order,
  }: { attempt: PaymentAttempt; order: { reference: string | null; amount: number; currency: string } },
): Promise<PaymentAttempt> {
  const opened = await provider.open(describeAttempt(attempt, order));
  switch (opened.outcome) {
    case 'opened': {
      const { providerAttemptId, handOff } = opened;
      const kept = await orders.recordOpened({ attemptId: attempt.id, providerAttemptId, handOff });
      // Its order was settled, or fenced and closed, while the provider was asked.
      if (kept?.state !== 'open') throw closing();
      return kept;
    }
    case 'refused':
      await orders.recordVerdict({
        attemptId: attempt.id,
        verdict: 'refused',
        reason: opened.reason,
        actor: 'api',
      });
      throw new Problem('provider_refused', `${provider.name}: ${opened.reason}`);
    case 'unknown':
      throw new Problem(
        'unavailable',
        `${provider.name} did not answer: ${opened.reason}. Repeat the request.`,
      );
  }
}

function closing(): Problem {
  return new Problem('order_closing', 'Its time is over, and its payment providers are being asked.');
}

/** An attempt as the contract shows it. */
function presentAttempt(attempt: PaymentAttempt): object {
  const { id, orderId, provider, state, providerAttemptId, handOff, payBy, createdAt, endedAt } = attempt;
  const { verdict, verdictSince, verdictReason: reason } = attempt;
  return {
    id,
    orderId,
    provider,
    state,
    providerAttemptId,
    url: handOff?.url ?? null,
    clientSecret: handOff?.clientSecret ?? null,
    instructions: handOff?.instructions ?? null,
    payBy,
    createdAt,
    endedAt,
    verdict,
    verdictSince,
    reason,
  };
}
