import type { Orders } from '@lapse/orders';
import { Router } from 'express';
import { fieldOf } from '../form.ts';
import { heldLine } from '../present-money.ts';
import type { Views } from '../views.ts';
import { formatCursor, parseCursor } from './cursor.ts';

const pageSize = 50;

/** The orders that their payment providers hold, those that are held longest first. */
export function heldPage({ orders, views }: { orders: Orders; views: Views }): Router {
  const router = Router();

  router.get('/held', async (request, response) => {
    const after = parseCursor(fieldOf(request.query, 'after'));
    const found = await orders.heldList({
      ...(after === undefined ? {} : { after: { verdictSince: after.at, id: after.id } }),
      limit: pageSize + 1,
    });
    const page = found.slice(0, pageSize);
    const last = found.length > pageSize ? page.at(-1) : undefined;
    response.send(
      views.render('held', {
        held: page.map(heldLine),
        isFirst: after === undefined,
        nextUrl: last && `/held?after=${formatCursor({ at: last.verdictSince, id: last.id })}`,
      }),
    );
  });

  return router;
}
