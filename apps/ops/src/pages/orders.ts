import type { Deadlines, JobView } from '@lapse/deadlines';
import type { Order, Orders, OrderStatus } from '@lapse/orders';
import { Router, type Response } from 'express';
import { boardJobUrl, type Board } from '../board.ts';
import { fieldOf, isStorable } from '../form.ts';
import { duration, eventEntry, money, orderLine, words } from '../present.ts';
import { attemptLine, paymentLine } from '../present-money.ts';
import type { Views } from '../views.ts';
import { brakeBanner, freezeBanner } from './overview.ts';

const pageSize = 50;
const statuses: readonly OrderStatus[] = ['pending_payment', 'paid', 'cancelled'];
const orderIdForm = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** The list of orders, and the story of one. */
export function orderPages(options: {
  orders: Orders;
  deadlines: Deadlines;
  board: Board;
  views: Views;
}): Router {
  const { orders, deadlines, board, views } = options;
  const router = Router();

  const notFound = (response: Response, id: string): void => {
    const text = `There is no order ${id}.`;
    response.status(404).send(views.render('message', { title: 'No such order', text, nav: 'orders' }));
  };
  const inspect = (order: Order): Promise<JobView | null | 'unknown'> =>
    deadlines.inspect({ orderId: order.id, partition: order.partition }).catch(() => 'unknown');

  router.get('/orders', async (request, response) => {
    const q = fieldOf(request.query, 'q').trim();
    const status = statuses.find((known) => known === fieldOf(request.query, 'status'));
    const before = orderId(fieldOf(request.query, 'before'));
    const wantedId = orderId(q);
    if (wantedId !== undefined && (await orders.find(wantedId)) !== undefined) {
      response.redirect(303, `/orders/${wantedId}`);
      return;
    }
    const reference = q === '' ? undefined : q;
    const page = isStorable(q)
      ? await orders.list({ reference, status, before, limit: pageSize })
      : { orders: [], before: null };
    const older =
      page.before === null
        ? undefined
        : new URLSearchParams({
            ...(reference === undefined ? {} : { q: reference }),
            ...(status === undefined ? {} : { status }),
            before: page.before,
          });
    response.send(
      views.render('orders', {
        q,
        status,
        statuses: statuses.map((value) => ({ value, name: words(value) })),
        orders: page.orders.map(orderLine),
        isFirst: before === undefined,
        olderUrl: older && `/orders?${older.toString()}`,
      }),
    );
  });

  router.get('/orders/:id', async (request, response) => {
    const id = orderId(request.params.id);
    const order = id === undefined ? undefined : await orders.find(id);
    if (order === undefined) {
      notFound(response, request.params.id);
      return;
    }
    const [events, attempts, payments, closingAt, holding, brake, job] = await Promise.all([
      orders.timeline(order.id),
      orders.attempts(order.id),
      orders.payments(order.id),
      orders.closingSince(order.id),
      orders.freezesOf(order.id),
      orders.activeBrake(),
      inspect(order),
    ]);
    const isPending = order.status === 'pending_payment';
    // What waits for ever has no clock to stop.
    const freezes = isPending && order.deadlineAt !== null ? holding : [];
    response.send(
      views.render('order', {
        now: new Date(),
        order: orderLine(order),
        channel: order.channel,
        paymentMethod: order.paymentMethod,
        partition: order.partition,
        expireAt: order.expireAt,
        hasGrace: order.expireAt?.getTime() !== order.deadlineAt?.getTime(),
        paidAt: order.paidAt,
        cancelledAt: order.cancelledAt,
        isPending,
        items: order.items.map(({ sku, quantity, unitAmount }) => ({
          sku,
          quantity,
          each: money(unitAmount, order.currency),
          total: money(unitAmount * quantity, order.currency),
        })),
        metadata: Object.keys(order.metadata).length === 0 ? null : JSON.stringify(order.metadata, null, 2),
        events: events.map((event) => eventEntry(event, order.createdAt)),
        attempts: attempts.map(attemptLine),
        payments: payments.map(paymentLine),
        closing: closingAt && { since: closingAt, lasting: duration(Date.now() - closingAt.getTime()) },
        freezes: freezes.map(freezeBanner),
        brake: isPending && brake ? brakeBanner(brake) : undefined,
        job: {
          ...jobLine(job, whoCovers(order, closingAt !== undefined)),
          url:
            job !== null && job !== 'unknown' && board.partitions().includes(order.partition)
              ? boardJobUrl(order.partition, order.id)
              : undefined,
        },
      }),
    );
  });

  return router;
}

/** What becomes of a pending order whose job is gone; undefined: it is settled. */
function whoCovers({ status, deadlineAt }: Order, isClosing: boolean): string | undefined {
  if (status !== 'pending_payment') return undefined;
  if (isClosing) return 'its payment providers are being asked';
  return deadlineAt === null ? 'the order waits for ever' : 'the sweeper covers it';
}

/**
 * What the job behind a deadline means to the order.
 *
 * @param cover what becomes of a pending order without it
 */
function jobLine(job: JobView | null | 'unknown', cover: string | undefined) {
  if (job === 'unknown') {
    return { state: 'unknown', text: `Redis cannot be reached${cover === undefined ? '' : `; ${cover}`}.` };
  }
  if (job === null) return { state: 'none', text: `No job; ${cover ?? 'the order is settled'}.` };
  if (job.firesAt !== null) {
    const waitMs = job.firesAt.getTime() - Date.now();
    return {
      state: job.state,
      firesAt: job.firesAt,
      text: waitMs > 0 ? `in ${duration(waitMs)}` : `due for ${duration(waitMs)}`,
    };
  }
  return {
    state: job.state,
    text: job.state === 'failed' && cover !== undefined ? `It failed; ${cover}.` : '',
  };
}

function orderId(given: string): string | undefined {
  const id = given.toLowerCase();
  return orderIdForm.test(id) ? id : undefined;
}
