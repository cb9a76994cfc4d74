import type { Orders, Stock, StockAnswer } from '@lapse/orders';
import { Router } from 'express';
import { z } from 'zod';
import { pageLimit, parse, parseBody, text } from '../parse.ts';
import { invalidField, Problem } from '../problem.ts';

const mostPieces = Number.MAX_SAFE_INTEGER;
const params = z.object({ sku: text(128) });
const setBody = z.strictObject({ onHand: z.int().min(0).max(mostPieces).nullable() });
const adjustBody = z.strictObject({ by: z.int().min(-mostPieces).max(mostPieces) });
const listQuery = z.strictObject({ cursor: text(128).optional(), limit: pageLimit });

/** Stock: set, adjust, read. */
export function stockRoutes({ orders }: { orders: Orders }): Router {
  const router = Router();

  router.get('/v1/stock', async (request, response) => {
    const { cursor = '', limit } = parse(listQuery, request.query);
    const page = await orders.listStock({ after: cursor, limit });
    response.json({ data: page, nextCursor: page.length === limit ? (page.at(-1)?.sku ?? null) : null });
  });

  router.get('/v1/stock/:sku', async (request, response) => {
    const { sku } = parse(params, request.params);
    const stock = await orders.readStock(sku);
    if (stock === undefined) throw skuNotFound(sku);
    response.json(stock);
  });

  router.put('/v1/stock/:sku', async (request, response) => {
    const { sku } = parse(params, request.params);
    const { onHand } = parseBody(setBody, request);
    response.json(changed(sku, 'onHand', await orders.setStock(sku, onHand)));
  });

  router.post('/v1/stock/:sku/adjust', async (request, response) => {
    const { sku } = parse(params, request.params);
    const { by } = parseBody(adjustBody, request);
    response.json(changed(sku, 'by', await orders.adjustStock(sku, by)));
  });

  return router;
}

function changed(sku: string, field: 'onHand' | 'by', answer: StockAnswer): Stock {
  switch (answer.outcome) {
    case 'changed':
      return answer.stock;
    case 'sku_not_found':
      throw skuNotFound(sku);
    case 'below_held':
      throw new Problem('stock_below_held', `${sku} may not fall below what pending orders hold.`);
    case 'out_of_range':
      throw invalidField(field, `${sku} must stay between 0 and 2^53 - 1 pieces`);
    case 'not_counted':
      throw invalidField(field, `${sku} is not counted; set its onHand to a number first`);
  }
}

function skuNotFound(sku: string): Problem {
  return new Problem('not_found', `There is no SKU ${sku}; set its stock with PUT /v1/stock/{sku}.`);
}
