import { setTimeout as delay } from 'node:timers/promises';
import type { LapseClient, Order } from '@lapse/client';
import { inParallel } from '@lapse/devstack';
import { latenessOf } from './stories.ts';

const orderCount = 1000;
const concurrency = 50;

/** A flash sale that nobody pays for: 1,000 orders with windows that end within the same two seconds. */
export async function burst(
  client: LapseClient,
  say: (sentence: string) => void,
): Promise<{ readonly asExpected: boolean }> {
  say(`\nA flash sale: ${orderCount} orders that nobody pays, all due within two seconds …`);
  await client.setStock('flash', orderCount);
  const deadline = Date.now() + 4000;
  const placed = await inParallel(orderCount, concurrency, (n) => {
    const paymentWindowMs = Math.max(1000, deadline + (n % 2000) - Date.now());
    const items = [{ sku: 'flash', quantity: 1, unitAmount: 100 }];
    return client.checkout({ reference: 'flash sale', currency: 'EUR', items, paymentWindowMs });
  });
  say(
    `  ${placed.length} placed, ${(await client.stock('flash')).available ?? 0} pieces left; waiting for the last deadline …`,
  );
  while ((await client.stock('flash')).held > 0 && Date.now() < deadline + 10_000) await delay(100);

  const ended = await inParallel(orderCount, concurrency, async (n): Promise<Order | undefined> => {
    const order = placed[n];
    return order === undefined ? undefined : client.order(order.id);
  });
  const lateness = ended.map(latenessOf).filter((ms) => ms !== undefined);
  const sorted = lateness.toSorted((a, b) => a - b);
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
  console.log(
    `  ${sorted.length} of ${orderCount} lapsed, lateness p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, max ${at(1)} ms; ` +
      `${(await client.stock('flash')).available ?? 0} pieces on sale again`,
  );
  return { asExpected: sorted.length === orderCount };
}
