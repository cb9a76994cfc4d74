import type { Orders, WorkListCursor } from '@lapse/orders';
import { Router } from 'express';
import type { Views } from '../views.ts';
import { paymentLine } from './orders.ts';

const pageSize = 50;

/** The work list: money that a person must decide about, longest waiting first. */
export function workPage({ orders, views }: { orders: Orders; views: Views }): Router {
  const router = Router();

  router.get('/work', async (request, response) => {
    const after = parseCursor(request.query['after']);
    const limit = pageSize + 1;
    const found = await orders.workList(after === undefined ? { limit } : { after, limit });
    const page = found.slice(0, pageSize);
    const { id, listedAt = null } = page.at(-1) ?? {};
    const hasMore = found.length > pageSize && listedAt !== null;
    response.send(
      views.render('work', {
        payments: page.map(paymentLine),
        isFirst: after === undefined,
        nextUrl: hasMore ? `/work?after=${listedAt.getTime()}.${id}` : undefined,
      }),
    );
  });

  return router;
}

/** The end of a page: when its last payment was listed, and its id. */
function parseCursor(value: unknown): WorkListCursor | undefined {
  const [, listedAtMs, id] =
    /^(\d{1,15})\.([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/.exec(String(value)) ?? [];
  return listedAtMs === undefined || id === undefined
    ? undefined
    : { listedAt: new Date(Number(listedAtMs)), id };
}
