import { inParallel, waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { countCancelled, startFleet, untilNonePending, type Fleet } from './fleet.ts';

const orderCount = 3000;
let fleet: Fleet;

beforeAll(async () => {
  fleet = await startFleet({ workerCount: 3, env: { LAPSE_PARTITIONS: '4' } });
  await fleet.client.setStock('mug', orderCount);
});

afterAll(async () => {
  await fleet.expectInvariants();
  await fleet.stop();
});

test('two of three workers killed in mid-work: the third cancels every order, each once', async () => {
  const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];
  const firstDueAt = Date.now() + 5000;
  // Due over two seconds, so that the kill meets work that is under way.
  await inParallel(orderCount, 64, (n) =>
    fleet.client.checkout({
      currency: 'EUR',
      items,
      paymentWindowMs: Math.max(1000, firstDueAt + (n % 2000) - Date.now()),
    }),
  );
  await waitFor(async () => (await countCancelled(fleet.database)) > orderCount / 10, {
    what: 'the first cancellations',
    timeoutMs: 20_000,
  });
  const [first, second] = fleet.workers;
  first?.kill('SIGKILL');
  second?.kill('SIGKILL');
  const atKill = await countCancelled(fleet.database);
  expect(atKill).toBeLessThan(orderCount);

  await untilNonePending(fleet.database, 20_000);
  expect(await countCancelled(fleet.database)).toBe(orderCount);
  const { rows } = await fleet.database.query<{ count: number }>(
    "select count(*) from events where type = 'order.cancelled'",
  );
  expect(rows[0]?.count).toBe(orderCount);
  expect(await fleet.client.stock('mug')).toEqual({
    sku: 'mug',
    onHand: orderCount,
    held: 0,
    available: orderCount,
  });
});
