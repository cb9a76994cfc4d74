import { afterAll, beforeAll, expect, test } from 'vitest';

import { faultNamed } from './faults.ts';
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
}, 90_000);
