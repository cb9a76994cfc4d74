import type { Orders } from '@lapse/orders';
import { Router } from 'express';
import { z } from 'zod';
import { parse, parseBody, text, words } from '../parse.ts';
import { Problem } from '../problem.ts';

/** So many of the newest freezes are shown, and all that are not done. */
const shownCount = 200;

const freezeBody = z.strictObject({
  scope: z
    .strictObject({
      channel: text(64).optional(),
      paymentMethod: text(64).optional(),
      provider: text(64).optional(),
    })
    .default({}),
  reason: words(1000),
});
const params = z.object({ id: z.uuid() });

/** Freezes: stop the clock of some orders, let it go on, and list what was frozen. */
export function freezeRoutes({ orders }: { orders: Orders }): Router {
  const router = Router();

  router.post('/v1/freezes', async (request, response) => {
    const { scope, reason } = parseBody(freezeBody, request);
    response.status(201).json(await orders.freeze({ scope, reason, actor: 'api' }));
  });

  router.post('/v1/freezes/:id/thaw', async (request, response) => {
    const { id } = parse(params, request.params);
    const thawed = (await orders.thaw(id, 'api')) ?? (await orders.findFreeze(id));
    if (thawed === undefined) throw new Problem('not_found', `There is no freeze ${id}.`);
    if (thawed.kind === 'brake')
      throw new Problem('not_found', `${id} is no freeze but a brake: \`lapse resume\` releases it.`);
    // Also for a repetition: it is thawing, or done, as was asked for.
    response.json(thawed);
  });

  router.get('/v1/freezes', async (_request, response) => {
    response.json({ data: await orders.freezes(shownCount) });
  });

  return router;
}
