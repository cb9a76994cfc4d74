import { randomUUID } from 'node:crypto';

import type { Contender, Figures } from './harness.ts';
import { sendLoad, type HttpRequest } from './http-load.ts';
import { apiKey, type Shop, type ShopKind } from './shops.ts';

/** How long a load lasts, seconds. */
export const loadSeconds = 5;

/** More than each answers, 1/s: so many requests are made ready. A load that runs out of them just ends earlier. */
const mostPerSecond = { lapse: 16_000, plain: 5000, door: 24_000 } as const satisfies Record<
  ShopKind,
  number
>;
const mostPerSecondOfOne = 4000;

/** An item of a checkout. */
interface Item {
  readonly sku: string;
  readonly quantity: number;
  readonly unitAmount: number;
}

/** Which checkouts, and how many at a time. */
export interface CheckoutLoad {
  readonly connections: number;
  /** What is on sale: tracked where a number is given. */
  readonly stock: ReadonlyMap<string, number | null>;
  /** The items of the next checkout. */
  readonly drawItems: () => readonly Item[];
}

/** Checkouts over HTTP against an empty shop. Whatever was answered with 201 is looked for in the rows. */
export function checkoutContender(shop: Shop, { connections, stock, drawItems }: CheckoutLoad): Contender {
  return {
    name: `${shop.name}, ${connections} ${connections === 1 ? 'connection' : 'connections'}`,
    async measure(): Promise<Figures> {
      await shop.empty(stock);
      const perSecond = Math.min(mostPerSecond[shop.kind], connections * mostPerSecondOfOne);
      const { answeredCount, ...measured } = await sendLoad({
        url: shop.url,
        connections,
        seconds: loadSeconds,
        headers: headersOf(apiKey),
        requests: checkoutsOf(perSecond * loadSeconds, drawItems),
      });
      if (shop.kind !== 'door') await expectPlaced(shop, answeredCount);
      return { 'orders/s': measured.perSecond, 'p50 ms': measured.p50Ms, 'p99 ms': measured.p99Ms };
    },
  };
}

/** SKUs on sale are `sku-0` to this, less 1. */
export const skuCount = 1000;

/** Half of them tracked, with more pieces than a run can sell. */
export const wideStock: ReadonlyMap<string, number | null> = new Map(
  Array.from({ length: skuCount }, (_, n) => [`sku-${n}`, n % 2 === 0 ? 1_000_000_000 : null]),
);

/** Items of two different SKUs of the wide stock. */
export function drawTwoItems(): readonly Item[] {
  const first = Math.floor(Math.random() * skuCount);
  const second = (first + 1 + Math.floor(Math.random() * (skuCount - 1))) % skuCount;
  return [
    { sku: `sku-${first}`, quantity: 1, unitAmount: 1999 },
    { sku: `sku-${second}`, quantity: 2, unitAmount: 550 },
  ];
}

/** The payment that an order waits for. */
export function paymentOf({ id, amount }: { readonly id: string; readonly amount: number }): HttpRequest {
  return {
    path: `/v1/orders/${id}/payments`,
    headers: { 'idempotency-key': randomUUID() },
    body: JSON.stringify({ provider: 'stripe', providerPaymentId: `pi_${id}`, amount, currency: 'EUR' }),
  };
}

/** The headers of every call. */
export function headersOf(key: string): Record<string, string> {
  return { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
}

/** So many checkouts. */
export function checkoutsOf(count: number, drawItems: CheckoutLoad['drawItems']): HttpRequest[] {
  return Array.from({ length: count }, (_, n) => checkout(n, drawItems()));
}

function checkout(n: number, items: readonly Item[]): HttpRequest {
  return {
    path: '/v1/orders',
    headers: { 'idempotency-key': randomUUID() },
    body: JSON.stringify({ reference: `cart-${n}`, channel: 'web', currency: 'EUR', items }),
  };
}

/** @throws Error unless there are exactly as many orders, with all that belongs to them */
async function expectPlaced(shop: Shop, wanted: number): Promise<void> {
  const { rows } = await shop.database.query<{ orders: number; events: number; keys: number }>(
    `select
       (select count(*) from orders where status = 'pending_payment') as orders,
       (select count(*) from events where type = 'order.placed') as events,
       (select count(*) from idempotency_keys) as keys`,
  );
  const [found] = rows;
  if (found?.orders !== wanted || found.events !== wanted || found.keys !== wanted) {
    throw new Error(
      `${shop.name} answered ${wanted} checkouts with 201, but its rows are ${JSON.stringify(found)}`,
    );
  }
  await shop.expectInvariants();
}
