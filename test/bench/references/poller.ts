import { inParallel } from '@lapse/devstack';
import { connectRedis } from '@lapse/runtime';
import { cancelOrder } from './cancel-order.ts';
import { readPending, runReference } from './program.ts';

const key = 'deadlines';

/**
 * The tutorial: deadlines in a sorted set, looked at each second. Whoever removes an order from the set cancels it (and
 * loses it, should he die between the two). The tutorials cancel one after the other; this one 20 at a time.
 */
await runReference({
  async arm(ground) {
    const redis = connectRedis({ url: ground.redisUrl, role: 'worker', log: ground.log });
    for (const page of await readPending(ground, 1000)) {
      await redis.zadd(key, ...page.flatMap(({ id, expireAt }) => [expireAt.getTime(), id]));
    }
    redis.disconnect();
  },
  work({ database, redisUrl, log }) {
    const redis = connectRedis({ url: redisUrl, role: 'worker', log });
    const cancelDue = async (): Promise<void> => {
      const due = await redis.zrangebyscore(key, 0, Date.now());
      await inParallel(due.length, 20, async (n) => {
        const id = due[n];
        if (id !== undefined && (await redis.zrem(key, id)) === 1) await cancelOrder(database, id);
      });
    };
    let looking: Promise<void> | undefined;
    let timer: NodeJS.Timeout | undefined;
    return {
      start() {
        timer = setInterval(() => {
          looking ??= cancelDue()
            .catch((err: unknown) => log.warn({ err }, 'poller has trouble'))
            .finally(() => (looking = undefined));
        }, 1000);
        return Promise.resolve();
      },
      async stop() {
        clearInterval(timer);
        await looking;
        redis.disconnect();
      },
    };
  },
});
