import { afterAll, beforeAll, expect, test } from 'vitest';

import { faultNamed } from './faults.ts';
import { runMoney } from './money.ts';
import { runChaos } from './run.ts';
import { startServers, type Servers } from './servers.ts';

let servers: Servers;
beforeAll(async () => {
  servers = await startServers(console.log);
});
afterAll(async () => {
  await servers.stop();
});

/** The short form of `pnpm chaos`: what goes wrong most often, one after the other, in one population of orders. */
const chosen = ['cut-in-commit', 'worker-kill', 'redis-flush', 'redis-kill', 'postgres-restart'];

test('nothing that was acknowledged is lost, wrong or doubled by crashes of everything under load', async () => {
  const result = await runChaos({
    name: 'short',
    faults: chosen.map(faultNamed),
    order: 'one after the other',
    orderCount: 1500,
    seed: 20_260_101,
    servers,
    onProgress: () => undefined,
  });
  expect(result.breaches).toEqual([]);
  expect(result.orderCount).toBeGreaterThan(1200);
  // So that it was not too easy: connections were cut, and calls were tried again.
  expect(result.failures).toHaveProperty('503 unavailable');
  expect(result.told['payment_reminder']).toBeGreaterThan(500);
  expect(result.told['reinstated']).toBeGreaterThan(0);
}, 120_000);

/** The short form of `pnpm chaos --money`. */
test('no money is kept for nothing and none goes back twice, whatever the payment providers do', async () => {
  const { breaches, counts, orderCount } = await runMoney({
    orderCount: 160,
    perSecond: 40,
    seed: 20_260_101,
    servers,
    onProgress: () => undefined,
  });
  expect(breaches).toEqual([]);
  expect(orderCount).toBe(160);
  expect(counts.returned.twice).toBe(0);
  // So that it was not too easy.
  const { captures, payments, providers, told } = counts;
  expect(payments).toMatchObject({ paid: expect.any(Number) });
  expect(told).toMatchObject({ payment_reminder: expect.any(Number) });
  const { failedCalls, lostAnswers, webhooksLost, webhooksDoubled } = providers;
  for (const count of [captures.taken, failedCalls, lostAnswers, webhooksLost, webhooksDoubled])
    expect(count).toBeGreaterThan(0);
}, 90_000);
