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
    const begin = (): Promise<Begun> =>
      beginOrThrow(orders, { orderId, provider: name, handOffAs, returnUrl, actor: 'api' });
    const begun = await begin();
    if (begun.outcome === 'open') {
      response.json(presentAttempt(begun.attempt));
      return;
    }
    let opened = await openAtProvider(orders, provider, begun);
    // An earlier call left it behind, unanswered: what was right then may be too late by now. A new one is refused for good.
    if (opened.outcome === 'refused' && !begun.isNew)
      opened = await openAtProvider(orders, provider, await begin());
    if (opened.outcome === 'refused')
      throw new Problem('provider_refused', `${provider.name}: ${opened.reason}`);
    response.status(201).json(presentAttempt(opened.attempt));
  });

  router.get('/v1/orders/:id/payment-attempts', async (request, response) => {
    const orderId = parseOrderId(request);
    const [order, attempts] = await Promise.all([orders.find(orderId), orders.attempts(orderId)]);
    if (order === undefined) throw orderNotFound(orderId);
    response.json({ data: attempts.map(presentAttempt) });
  });

  return router;
}

type Begun = Extract<Awaited<ReturnType<Orders['beginAttempt']>>, { attempt: PaymentAttempt }>;

async function beginOrThrow(orders: Orders, wish: Parameters<Orders['beginAttempt']>[0]): Promise<Begun> {
  const begun = await orders.beginAttempt(wish);
  switch (begun.outcome) {
    case 'order_not_found':
      throw orderNotFound(wish.orderId);
    case 'not_pending':
      throw new Problem('order_not_pending', `It is ${begun.order.status}.`);
    case 'order_closing':
      throw closing();
    case 'open':
    case 'opening':
      return begun;
  }
}

type Opened =
  | { readonly outcome: 'opened'; readonly attempt: PaymentAttempt }
  | { readonly outcome: 'refused'; readonly reason: string };

/** Opens an attempt at its provider. A repetition of the call does the same again, which opens nothing twice. */
async function openAtProvider(
  orders: Orders,
  provider: PaymentProvider,
  { attempt, order }: Begun,
): Promise<Opened> {
  const opened = await provider.open(describeAttempt(attempt, order));
  switch (opened.outcome) {
    case 'opened': {
      const { providerAttemptId, handOff } = opened;
      const kept = await orders.recordOpened({ attemptId: attempt.id, providerAttemptId, handOff });
      // Its order was settled, or fenced and closed, while the provider was asked.
      if (kept?.state !== 'open') throw closing();
      return { outcome: 'opened', attempt: kept };
    }
    case 'refused':
      await orders.recordVerdict({
        attemptId: attempt.id,
        verdict: 'refused',
        reason: opened.reason,
        actor: 'api',
      });
      return { outcome: 'refused', reason: opened.reason };
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
