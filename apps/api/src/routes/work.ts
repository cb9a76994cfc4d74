import type { Deadlines } from '@lapse/deadlines';
import type { Orders, Payment } from '@lapse/orders';
import { Router, type Request } from 'express';
import { z } from 'zod';
import { pageLimit, parse, parseOptionalBody, text, words } from '../parse.ts';
import { Problem } from '../problem.ts';
import { disarmed } from './orders.ts';

/** The end of a page: the instant it was listed and its id. */
const workCursor = z
  .string()
  .regex(/^\d{1,15}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, 'is not a cursor of this list')
  .transform((cursor) => {
    const [listedAtMs = '', id = ''] = cursor.split('.');
    return { listedAt: new Date(Number(listedAtMs)), id };
  });

const workQuery = z.strictObject({ cursor: workCursor.optional(), limit: pageLimit });

const workList = '/v1/money/work';
const params = z.object({ paymentId: z.uuid() });
const decisionBody = z.strictObject({ note: text(1000).nullable().default(null) });
const dismissalBody = z.strictObject({ note: words(1000) });

/** The work list: money that a person must decide about, and what they decide. */
export function workRoutes({ orders, deadlines }: { orders: Orders; deadlines: Deadlines }): Router {
  const router = Router();

  router.get(workList, async (request, response) => {
    const { cursor, limit } = parse(workQuery, request.query);
    const page = await orders.workList(cursor === undefined ? { limit } : { after: cursor, limit });
    response.json({ data: page, nextCursor: page.length === limit ? cursorBehind(page.at(-1)) : null });
  });

  const decide = async (
    request: Request,
    resolution: 'refund' | 'accept' | 'dismiss',
    note: string | null,
  ): Promise<Payment> => {
    const { paymentId } = parse(params, request.params);
    const answer = await orders.decideWork({ paymentId, resolution, note, actor: 'api' });
    switch (answer.outcome) {
      case 'payment_not_found':
        throw new Problem('not_found', `There is no payment ${paymentId}.`);
      case 'not_listed':
        throw new Problem('already_decided', decidedAlready(answer.payment));
      case 'refund_under_way':
        throw new Problem('already_decided', 'It is on its way back.');
      case 'orderless':
        throw new Problem('order_not_found', 'It is for no order that exists: refund or dismiss it.');
      case 'order_already_paid':
        throw new Problem(
          'order_already_paid',
          'Another payment paid the order: refund or dismiss this one.',
        );
      case 'order_was_cancelled':
        throw new Problem(
          'order_not_pending',
          'Somebody cancelled the order: refund or dismiss the payment.',
        );
      case 'out_of_stock':
        throw new Problem('out_of_stock', 'The stock of the order is sold: refund or dismiss the payment.');
      case 'resolved':
        break;
    }
    const { payment, isPaid } = answer;
    const order = isPaid && payment.orderId !== null ? await orders.find(payment.orderId) : undefined;
    if (order !== undefined) await disarmed(order, deadlines);
    return payment;
  };

  router.post(`${workList}/:paymentId/refund`, async (request, response) => {
    response.json(await decide(request, 'refund', parseOptionalBody(decisionBody, request).note));
  });
  router.post(`${workList}/:paymentId/accept`, async (request, response) => {
    response.json(await decide(request, 'accept', parseOptionalBody(decisionBody, request).note));
  });
  // What was done outside of Lapse stands nowhere else.
  router.post(`${workList}/:paymentId/dismiss`, async (request, response) => {
    response.json(await decide(request, 'dismiss', parseOptionalBody(dismissalBody, request).note));
  });

  return router;
}

function decidedAlready({ resolution, resolvedBy, resolvedAt }: Payment): string {
  return resolution === null
    ? 'Nobody needs to decide about it.'
    : `${resolvedBy ?? 'somebody'} decided ${resolution} at ${resolvedAt?.toISOString() ?? ''}.`;
}

function cursorBehind(payment: Payment | undefined): string | null {
  const listedAt = payment?.listedAt ?? null;
  return payment === undefined || listedAt === null ? null : `${listedAt.getTime()}.${payment.id}`;
}
