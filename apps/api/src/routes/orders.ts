import type { Deadlines } from '@lapse/deadlines';
import type { Order, Orders } from '@lapse/orders';
import { Router, type Request } from 'express';
import { z } from 'zod';
import { writeAnswer, type Handler } from '../answer.ts';
import {
  pageLimit,
  parse,
  parseBody,
  parseIdempotencyKey,
  parseOptionalBody,
  parseOrderId,
  text,
} from '../parse.ts';
import { presentOrder } from '../present.ts';
import { invalidField, Problem } from '../problem.ts';
import { checkoutBody } from './checkout-body.ts';

/** Who the API acts for, in the events. One key so far. */
const actor = 'api';

const listQuery = z.strictObject({
  status: z.enum(['pending_payment', 'paid', 'cancelled']).optional(),
  channel: text(64).optional(),
  reference: text(128).optional(),
  cursor: z.uuid().optional(),
  limit: pageLimit,
});

const cancelBody = z.strictObject({ reason: z.enum(['customer', 'merchant']).default('customer') });

const farthestMs = 7_776_000_000;
const instant = z.iso.datetime({ offset: true, error: 'must be an instant in ISO 8601 with its offset' });
const extendBody = z
  .strictObject({
    byMs: z.int().min(1).max(farthestMs).optional(),
    deadlineAt: instant.transform((at) => new Date(at)).optional(),
  })
  .transform(({ byMs, deadlineAt }, context) => {
    if (byMs !== undefined && deadlineAt === undefined) return { byMs };
    if (deadlineAt !== undefined && byMs === undefined) return { deadlineAt };
    context.addIssue('must have either byMs or deadlineAt');
    return z.NEVER;
  });

/** Places an order and arms its deadline. */
export function checkoutCall({ orders, deadlines }: { orders: Orders; deadlines: Deadlines }): Handler {
  return async (call) => {
    const body = parseBody(checkoutBody, call);
    const answer = await orders.checkout({
      ...body,
      actor,
      idempotency: parseIdempotencyKey(call, 'POST /v1/orders', body),
    });
    switch (answer.outcome) {
      case 'placed':
        // Also for a replay: the first answer may have been lost together with its process, before it armed.
        await armed(answer.order, deadlines, 'arm');
        return {
          status: 201,
          headers: { Location: `/v1/orders/${answer.order.id}` },
          body: presentOrder(answer.order),
        };
      case 'out_of_stock':
        throw new Problem('out_of_stock', `Not enough of ${answer.skus.join(', ')}.`, { skus: answer.skus });
      case 'unknown_sku':
        throw new Problem('unknown_sku', `Set the stock of ${answer.skus.join(', ')} first.`, {
          skus: answer.skus,
        });
      case 'idempotency_key_reused':
      case 'idempotency_in_progress':
        throw idempotencyProblem(answer.outcome);
      case 'order_not_found':
        throw orderNotFound(answer.orderId);
    }
  };
}

/** Orders: place, read, list, cancel, extend. */
export function orderRoutes(options: { orders: Orders; deadlines: Deadlines; checkout: Handler }): Router {
  const { orders, deadlines, checkout } = options;
  const router = Router();

  router.post('/v1/orders', async (request, response) => {
    writeAnswer(response, await checkout(request));
  });

  router.get('/v1/orders', async (request, response) => {
    const { cursor, limit, ...filter } = parse(listQuery, request.query);
    const page = await orders.list({ ...filter, before: cursor, limit });
    response.json({ data: page.orders.map(presentOrder), nextCursor: page.before });
  });

  router.get('/v1/orders/:id', async (request, response) => {
    response.json(presentOrder(await findOrder(orders, request)));
  });

  router.get('/v1/orders/:id/timeline', async (request, response) => {
    const { id, partition } = await findOrder(orders, request);
    const [events, job] = await Promise.all([
      orders.timeline(id),
      // The story does not need Redis.
      deadlines.inspect({ orderId: id, partition }).catch(() => null),
    ]);
    response.json({ events, job });
  });

  router.post('/v1/orders/:id/cancel', async (request, response) => {
    const orderId = parseOrderId(request);
    const { reason } = parseOptionalBody(cancelBody, request);
    const answer = await orders.cancel({ orderId, reason, actor });
    switch (answer.outcome) {
      case 'order_not_found':
        throw orderNotFound(orderId);
      case 'already_paid':
        throw new Problem(
          'order_already_paid',
          `It was paid at ${answer.order.paidAt?.toISOString() ?? ''}.`,
        );
      case 'cancelled':
      // Also for a repetition: the first call may have ended between the two.
      case 'already_cancelled':
        await disarmed(answer.order, deadlines);
        break;
    }
    response.json(presentOrder(answer.order));
  });

  router.post('/v1/orders/:id/extend', async (request, response) => {
    const orderId = parseOrderId(request);
    const to = parseBody(extendBody, request);
    const answer = await orders.extend({ orderId, to, actor });
    switch (answer.outcome) {
      case 'order_not_found':
        throw orderNotFound(orderId);
      case 'not_pending':
        throw new Problem('order_not_pending', `It is ${answer.order.status}.`);
      case 'order_closing':
        throw new Problem('order_closing', 'Its time is over, and its payment providers are being asked.');
      case 'beyond_policy':
        throw invalidField(fieldOf(to), `the policy '${answer.policy}' allows ${answer.bound}`);
      case 'out_of_range':
        throw invalidField(
          fieldOf(to),
          `the new deadline must lie after the old one (${answer.order.deadlineAt?.toISOString() ?? 'never'}), after now, and ` +
            'within 90 days',
        );
      case 'extended':
        await armed(answer.order, deadlines, 'rearm');
        response.json(presentOrder(answer.order));
    }
  });

  return router;
}

async function findOrder(orders: Orders, request: Request): Promise<Order> {
  const id = parseOrderId(request);
  const order = await orders.find(id);
  if (order === undefined) throw orderNotFound(id);
  return order;
}

/** Arms the deadline of an order that is pending and has one, and its next reminder. */
async function armed(order: Order, deadlines: Deadlines, how: 'arm' | 'rearm'): Promise<void> {
  const { id: orderId, partition, createdAt, expireAt, remindAt, status } = order;
  if (status !== 'pending_payment' || expireAt === null) return;
  await Promise.all([
    deadlines[how]({ orderId, partition, createdAt, expireAt }),
    remindAt === null ? undefined : deadlines.armReminder({ orderId, remindAt }),
  ]);
}

/** Disarms the deadline of an order that was settled, and its next reminder. */
export async function disarmed(
  { id: orderId, partition, remindAt }: Order,
  deadlines: Deadlines,
): Promise<void> {
  await deadlines.disarm({ orderId, partition, remindAt });
}

function fieldOf(to: { byMs: number } | { deadlineAt: Date }): string {
  return 'byMs' in to ? 'byMs' : 'deadlineAt';
}

/** The problem of an order that does not exist. */
export function orderNotFound(id: string): Problem {
  return new Problem('order_not_found', `There is no order ${id}.`);
}

/** The problem of an idempotency key that cannot be taken. */
export function idempotencyProblem(code: 'idempotency_key_reused' | 'idempotency_in_progress'): Problem {
  return code === 'idempotency_key_reused'
    ? new Problem(code, 'Use a new key for a new request.')
    : new Problem(code, 'Repeat the request in a moment.');
}
