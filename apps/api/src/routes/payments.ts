import type { Deadlines } from '@lapse/deadlines';
import type { Orders } from '@lapse/orders';
import { Router } from 'express';
import { z } from 'zod';
import { writeAnswer, type Handler } from '../answer.ts';
import { parseBody, parseIdempotencyKey, parseOrderId, text } from '../parse.ts';
import { presentOrder } from '../present.ts';
import { Problem } from '../problem.ts';
import { disarmed, idempotencyProblem, orderNotFound } from './orders.ts';

const paymentBody = z.strictObject({
  provider: text(64),
  providerPaymentId: text(255),
  amount: z.int().min(1).max(Number.MAX_SAFE_INTEGER),
  currency: z.string().regex(/^[A-Z]{3}$/, 'must be an ISO 4217 code in capitals, EUR for example'),
});

/** Records a payment; where it paid its order, the deadline is disarmed. */
export function payCall({ orders, deadlines }: { orders: Orders; deadlines: Deadlines }): Handler {
  return async (call) => {
    const orderId = parseOrderId(call);
    const body = parseBody(paymentBody, call);
    const answer = await orders.pay({
      ...body,
      orderId,
      verified: false,
      actor: 'api',
      idempotency: parseIdempotencyKey(call, 'POST /v1/orders/{id}/payments', [orderId, body]),
    });
    switch (answer.outcome) {
      case 'order_not_found':
      // Only what a provider verified is recorded without an order.
      case 'orderless':
        throw orderNotFound(orderId);
      case 'payment_conflict':
        throw new Problem(
          'payment_conflict',
          `${body.provider} ${body.providerPaymentId} paid for another order.`,
        );
      case 'idempotency_key_reused':
      case 'idempotency_in_progress':
        throw idempotencyProblem(answer.outcome);
      case 'paid':
        await disarmed(answer.order, deadlines);
        break;
      case 'already_recorded':
      case 'duplicate':
      case 'late':
      case 'amount_mismatch':
        break;
    }
    const { outcome, order, payment } = answer;
    const { refund, ...money } = payment;
    return {
      status: 200,
      body: { outcome, order: presentOrder(order), payment: money, ...(refund === null ? {} : { refund }) },
    };
  };
}

/** Payments: report one. */
export function paymentRoutes({ pay }: { pay: Handler }): Router {
  const router = Router();

  router.post('/v1/orders/:id/payments', async (request, response) => {
    writeAnswer(response, await pay(request));
  });

  return router;
}
