import type { Deadlines } from '@lapse/deadlines';
import type { Orders, Payment } from '@lapse/orders';
import { Router } from 'express';
import { z } from 'zod';
import { writeAnswer, type Handler } from '../answer.ts';
import { pageLimit, parse, parseBody, parseIdempotencyKey, parseOrderId, text } from '../parse.ts';
import { presentOrder } from '../present.ts';
import { Problem } from '../problem.ts';
import { idempotencyProblem, orderNotFound } from './orders.ts';

const paymentBody = z.strictObject({
  provider: text(64),
  providerPaymentId: text(255),
  amount: z.int().min(1).max(Number.MAX_SAFE_INTEGER),
  currency: z.string().regex(/^[A-Z]{3}$/, 'must be an ISO 4217 code in capitals, EUR for example'),
});

/** The end of a page: the instant it was listed and its id. */
const workCursor = z
  .string()
  .regex(/^\d{1,15}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, 'is not a cursor of this list')
  .transform((cursor) => {
    const [listedAtMs = '', id = ''] = cursor.split('.');
    return { listedAt: new Date(Number(listedAtMs)), id };
  });

const workQuery = z.strictObject({ cursor: workCursor.optional(), limit: pageLimit });

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
        await deadlines.disarm({ orderId, partition: answer.order.partition });
        break;
      case 'already_recorded':
      case 'duplicate':
      case 'late':
      case 'amount_mismatch':
        break;
    }
    const { outcome, order, payment } = answer;
    return { status: 200, body: { outcome, order: presentOrder(order), payment } };
  };
}

/** Payments: report one, and list those that a person must decide about. */
export function paymentRoutes({ orders, pay }: { orders: Orders; pay: Handler }): Router {
  const router = Router();

  router.post('/v1/orders/:id/payments', async (request, response) => {
    writeAnswer(response, await pay(request));
  });

  router.get('/v1/money/work', async (request, response) => {
    const { cursor, limit } = parse(workQuery, request.query);
    const page = await orders.workList(cursor === undefined ? { limit } : { after: cursor, limit });
    response.json({ data: page, nextCursor: page.length === limit ? cursorBehind(page.at(-1)) : null });
  });

  return router;
}

function cursorBehind(payment: Payment | undefined): string | null {
  const listedAt = payment?.listedAt ?? null;
  return payment === undefined || listedAt === null ? null : `${listedAt.getTime()}.${payment.id}`;
}
