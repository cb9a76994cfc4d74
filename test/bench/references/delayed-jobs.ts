import { connectRedis } from '@lapse/runtime';
import { Queue, Worker } from 'bullmq';
import { readPending, type Ground, type Reference } from './program.ts';

interface OrderJob {
  readonly orderId: string;
}

/**
 * A BullMQ queue with a delayed job for each order, named by it so that a payment could remove the job.
 *
 * @param options.concurrency jobs in hand at a time
 * @param options.look what is done with an order whose time is over
 */
export function delayedJobs(options: {
  queueName: string;
  concurrency: number;
  look: (orderId: string, ground: Ground) => Promise<void>;
}): Reference {
  const { queueName, concurrency, look } = options;
  return {
    async arm(ground) {
      const connection = connectRedis({ url: ground.redisUrl, role: 'worker', log: ground.log });
      const queue = new Queue<OrderJob>(queueName, { connection });
      for (const page of await readPending(ground, 1000)) {
        await queue.addBulk(
          page.map(({ id, expireAt }) => ({
            name: 'expire',
            data: { orderId: id },
            opts: {
              jobId: id,
              delay: Math.max(0, expireAt.getTime() - Date.now()),
              attempts: 5,
              backoff: { type: 'exponential', delay: 1000 },
            },
          })),
        );
      }
      await queue.close();
      connection.disconnect();
    },
    work(ground) {
      const connection = connectRedis({ url: ground.redisUrl, role: 'worker', log: ground.log });
      const worker = new Worker<OrderJob>(queueName, ({ data }) => look(data.orderId, ground), {
        connection,
        concurrency,
        autorun: false,
        removeOnComplete: { count: 1000 },
      });
      worker.on('error', (err) => ground.log.warn({ err }, 'worker has trouble'));
      return {
        async start() {
          await worker.waitUntilReady();
          void worker.run();
        },
        async stop() {
          await worker.close();
          connection.disconnect();
        },
      };
    },
  };
}
