import type { Deadlines } from '@lapse/deadlines';
import { connectRedis, type Log } from '@lapse/runtime';
import { Queue } from 'bullmq';

/** The queue of the plain service. */
export const plainQueueName = 'order-deadlines';

/** A job as the documentation shows it. @param delayMs until it fires */
export function plainJob(orderId: string, delayMs: number) {
  return {
    name: 'expire-order',
    data: { orderId },
    opts: { jobId: orderId, delay: delayMs, removeOnComplete: true },
  };
}

/** One `queue.add` for each order and one `queue.remove` for each payment; the answer waits for them. */
export function createPlainDeadlines(options: {
  redisUrl: string;
  log: Log;
}): Pick<Deadlines, 'arm' | 'disarm' | 'reachable' | 'stop'> {
  const redis = connectRedis({ url: options.redisUrl, role: 'worker', log: options.log });
  const queue = new Queue(plainQueueName, { connection: redis });
  queue.on('error', (error) => options.log.warn({ err: error }, 'the queue cannot be reached'));
  return {
    async arm({ orderId, createdAt, expireAt }) {
      const { name, data, opts } = plainJob(orderId, expireAt.getTime() - createdAt.getTime());
      await queue.add(name, data, opts);
      return 'armed';
    },
    async disarm({ orderId }) {
      await queue.remove(orderId);
    },
    reachable: async () => (await redis.ping()) === 'PONG',
    async stop() {
      await queue.close();
      redis.disconnect();
    },
  };
}
