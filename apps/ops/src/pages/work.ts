import type { Deadlines } from '@lapse/deadlines';
import type { Orders, Payment, WorkAnswer, WorkDecision } from '@lapse/orders';
import type { Log } from '@lapse/runtime';
import express, { Router, type Request, type Response } from 'express';
import { fieldOf, isStorable } from '../form.ts';
import { userOf } from '../login/session.ts';
import { words } from '../present.ts';
import { paymentLine } from '../present-money.ts';
import type { Views } from '../views.ts';
import { formatCursor, parseCursor } from './cursor.ts';

/** Where it is. */
const path = '/work';

const pageSize = 50;

/** Most characters of a note. */
const maxNote = 1000;

const uuidForm = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

const resolutions: readonly WorkDecision['resolution'][] = ['refund', 'accept', 'dismiss'];

/** What is said after a decision. */
const done: ReadonlyMap<string, string> = new Map([
  ['refund', 'The payment goes back the way it came.'],
  ['accept', 'The payment is accepted.'],
  ['paid', 'The payment is accepted: its order is paid.'],
  ['dismiss', 'The payment is dismissed.'],
]);

/** The work list: money that a person must decide about, longest waiting first, and what they decide. */
export function workPage(options: { orders: Orders; deadlines: Deadlines; views: Views; log: Log }): Router {
  const { orders, deadlines, views, log } = options;
  const router = Router();

  const show = async (
    response: Response,
    from: string,
    told: { readonly problem?: string; readonly success?: string; readonly orderId?: string | undefined },
  ): Promise<void> => {
    const after = parseCursor(from);
    const found = await orders.workList({
      ...(after === undefined ? {} : { after: { listedAt: after.at, id: after.id } }),
      limit: pageSize + 1,
    });
    const page = found.slice(0, pageSize);
    const { id, listedAt = null } = page.at(-1) ?? {};
    const next =
      found.length > pageSize && id !== undefined && listedAt !== null
        ? formatCursor({ at: listedAt, id })
        : undefined;
    response.send(
      views.render('work', {
        ...told,
        path,
        maxNote,
        payments: page.map(paymentLine),
        after: after && formatCursor(after),
        nextUrl: next && `${path}?after=${next}`,
      }),
    );
  };

  router.get(path, async (request, response) => {
    const orderId = uuidForm.exec(fieldOf(request.query, 'order'))?.[0];
    const success = done.get(fieldOf(request.query, 'done'));
    await show(response, fieldOf(request.query, 'after'), success === undefined ? {} : { success, orderId });
  });

  // 1,000 characters of a note may take 12 bytes each.
  const readForm = express.urlencoded({ extended: false, limit: '16kb' });

  router.post(`${path}/:paymentId`, readForm, async (request: Request<{ paymentId: string }>, response) => {
    const { paymentId } = request.params;
    const body: unknown = request.body;
    const from = fieldOf(body, 'after');
    const resolution = resolutions.find((known) => known === fieldOf(body, 'resolution'));
    const note = fieldOf(body, 'note').trim();
    const refuse = (status: number, problem: string): Promise<void> =>
      show(response.status(status), from, { problem });
    if (resolution === undefined) return refuse(400, 'Choose refund, accept or dismiss.');
    if (note.length > maxNote || !isStorable(note))
      return refuse(400, `A note has up to ${maxNote} characters, all of them visible.`);
    // What was done outside of Lapse stands nowhere else.
    if (resolution === 'dismiss' && note === '')
      return refuse(400, 'Nothing was dismissed: say in a note what was done about the money.');

    const actor = `ops:${userOf(request)}`;
    const answer: WorkAnswer = uuidForm.test(paymentId)
      ? await orders.decideWork({ paymentId, resolution, note: note === '' ? null : note, actor })
      : { outcome: 'payment_not_found' };
    if (answer.outcome !== 'resolved') {
      return refuse(answer.outcome === 'payment_not_found' ? 404 : 409, refusal(answer));
    }
    log.info({ paymentId, resolution, actor }, 'payment was decided about');
    const { orderId } = answer.payment;
    const order = answer.isPaid && orderId !== null ? await orders.find(orderId) : undefined;
    if (order !== undefined) {
      const { id, partition, remindAt } = order;
      await deadlines.disarm({ orderId: id, partition, remindAt });
    }
    const query = new URLSearchParams({
      done: answer.isPaid ? 'paid' : resolution,
      ...(orderId === null ? {} : { order: orderId }),
      ...(parseCursor(from) === undefined ? {} : { after: from }),
    });
    // Loading the page again does not decide again.
    response.redirect(303, `${path}?${query.toString()}`);
  });

  return router;
}

/** Why a decision changed nothing. */
function refusal(answer: Exclude<WorkAnswer, { outcome: 'resolved' }>): string {
  switch (answer.outcome) {
    case 'payment_not_found':
      return 'There is no such payment.';
    case 'not_listed':
      return decidedAlready(answer.payment);
    case 'refund_under_way':
      return 'Nothing was changed: the payment is on its way back.';
    case 'orderless':
      return 'It cannot be accepted: there is no such order. Refund or dismiss it.';
    case 'order_already_paid':
      return 'It cannot be accepted: another payment paid the order. Refund or dismiss this one.';
    case 'order_was_cancelled':
      return 'It cannot be accepted: somebody cancelled the order. Refund or dismiss the payment.';
    case 'out_of_stock':
      return 'It cannot be accepted: the stock of the order is sold. Refund or dismiss the payment.';
  }
}

function decidedAlready({ resolution, resolvedBy, resolvedAt, note }: Payment): string {
  if (resolution === null) return 'Nothing was changed: nobody needs to decide about the payment.';
  const when = resolvedAt?.toISOString().replace('T', ' ').replace('Z', '') ?? '';
  const because = note === null ? '' : `, noting “${note}”`;
  return `Nothing was changed: ${resolvedBy ?? 'somebody'} decided ${words(resolution)} at ${when}${because}.`;
}
