// The queue's side of a worker alone, halting at a point: `node fire.ts expire before`. Without a point it works on:
// its jobs fire, and no sweep, no comparison and no rebuild helps them.
import { createLog, createMetrics, loadSettings, openDatabase, runMain, runServices } from '@lapse/runtime';
import { deadlineWorker } from '@lapse/deadlines';
import { createOrders } from '@lapse/orders';

import { haltAt, haltAtCommit, pointFrom } from './halt.ts';

await runMain(async () => {
  const { databaseUrl, redisUrl } = loadSettings(['databaseUrl', 'redisUrl']);
  const point = pointFrom(process.argv.slice(2), ['commit', 'expire']);
  const log = createLog('worker', 'info');
  const database = openDatabase({ url: databaseUrl, app: 'worker', log });
  const real = createOrders({ database });
  if (point?.call === 'commit') haltAtCommit(database, point.moment);
  const orders = point?.call === 'expire' ? haltAt(real, 'expire', point.moment) : real;

  await runServices(
    [
      deadlineWorker({
        redisUrl,
        log,
        metrics: createMetrics(),
        expire: (orderIds) => orders.expire(orderIds, 'worker'),
        partitions: () => Promise.resolve([0]),
        clock: { isRight: () => true },
        giveUp: () => process.exit(1),
      }),
    ],
    log,
  );
});
