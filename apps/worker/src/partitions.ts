import type { Deadlines } from '@lapse/deadlines';
import type { Orders } from '@lapse/orders';

/** How often the queues of all partitions are looked at for jobs that stayed behind, ms. */
const lookEveryMs = 10_000;

/**
 * Which partitions a worker looks after: those of new orders, those that pending orders still name, and those whose
 * queue holds jobs though no pending order names it. The last are left behind where the number of partitions was
 * lowered: jobs of orders that were swept before they could be consumed, and those that could not be removed.
 *
 * @param options.partitionCount new orders are spread over 0 to this, less 1
 */
export function partitionsInUse(options: {
  partitionCount: number;
  orders: Orders;
  deadlines: Deadlines;
}): () => Promise<readonly number[]> {
  const { partitionCount, orders, deadlines } = options;
  const newPartitions = Array.from({ length: partitionCount }, (_, partition) => partition);
  let occupied: readonly number[] = [];
  let lookAgainAt = 0;
  return async () => {
    if (performance.now() >= lookAgainAt) {
      lookAgainAt = performance.now() + lookEveryMs;
      // Without Redis nothing can be done about them.
      occupied = await deadlines.occupiedPartitions().catch(() => []);
    }
    return [...new Set([...newPartitions, ...(await orders.pendingPartitions()), ...occupied])];
  };
}
