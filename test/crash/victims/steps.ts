// One step of what the workers do beside their jobs, halting at a point: `node steps.ts thaw armMany before`.
import { createDeadlines } from '@lapse/deadlines';
import { waitFor } from '@lapse/devstack';
import { createOrders } from '@lapse/orders';
import { createLog, createMetrics, loadSettings, openDatabase, runMain } from '@lapse/runtime';

import { pageSize } from './page-size.ts';
import { haltAt, haltAtCommit, pointFrom } from './halt.ts';

await runMain(async () => {
  const { databaseUrl, redisUrl } = loadSettings(['databaseUrl', 'redisUrl']);
  const [step = '', ...args] = process.argv.slice(2);
  const point = pointFrom(args, ['commit', 'armMany']);
  const log = createLog('worker', 'info');
  const database = openDatabase({ url: databaseUrl, app: 'worker', log });
  const real = createDeadlines({ redisUrl, log, metrics: createMetrics() });
  if (point?.call === 'commit') haltAtCommit(database, point.moment);
  const deadlines = point?.call === 'armMany' ? haltAt(real, 'armMany', point.moment) : real;
  const orders = createOrders({ database });

  const steps: Readonly<Record<string, () => Promise<unknown>>> = {
    sweep: () => orders.sweep(pageSize, 'sweeper'),
    async thaw() {
      const moved = await orders.thawStep(pageSize);
      if (moved.state !== 'moved') throw new Error(`there is nothing to thaw: ${moved.state}`);
      await deadlines.armMany(moved.deadlines);
    },
    rebuild: () =>
      orders.rebuildStep(pageSize, {
        isWhole: async ({ id }) => (await deadlines.epochs([0])).get(0) === id,
        begin: ({ id }) => deadlines.markEpoch([0], id),
        arm: async (page) => (await deadlines.armMany(page)).armed,
      }),
  };
  // As the real loops do: a producer's calls fail while it is still connecting.
  await waitFor(() => real.reachable(), { what: 'redis' });
  await steps[step]?.();
  throw new Error(`'${process.argv.slice(2).join(' ')}' did not halt`);
});
// Its connections would keep it alive.
process.exit();
