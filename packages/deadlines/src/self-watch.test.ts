import { fileURLToPath } from 'node:url';
import { setTimeout as delay } from 'node:timers/promises';
import { spawnGuarded, startProxy, waitFor } from '@lapse/devstack';
import { createMetrics, type Metrics, type Service } from '@lapse/runtime';
import { RedisQueueBackend } from 'bullmq';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { canaryId, partitionQueueName } from './catalog.ts';
import { watchClock, type Clock } from './clock.ts';
import type { Deadlines } from './deadlines.ts';
import type { Deadline } from './jobs.ts';
import {
  connectedDeadlines,
  metric,
  newDeadline,
  silent,
  startTestRedis,
  unwatched,
  type TestRedis,
} from './testing.ts';
import { deadlineWorker } from './worker.ts';

let redis: TestRedis;
let deadlines: Deadlines;
const running = new Set<Service>();
beforeAll(async () => {
  redis = await startTestRedis();
  ({ deadlines } = await connectedDeadlines(redis.url));
});
afterAll(async () => {
  await deadlines.stop();
  await redis.stop();
});
beforeEach(async () => {
  await redis.client.flushall();
});
afterEach(async () => {
  await Promise.all([...running].map((service) => service.stop()));
  running.clear();
});

/** Looks often; silent for longer than the second a canary takes. */
const watch = { everyMs: 100, silentLooks: 20, maxReplacements: 3 } as const;

interface StartedWorker {
  readonly metrics: Metrics;
  readonly fired: Set<string>;
  readonly giveUp: ReturnType<typeof vi.fn<() => void>>;
  stop(): Promise<void>;
}

async function startWorker(options: {
  url?: string;
  partitions?: readonly number[];
  clock?: Clock;
  watch?: { everyMs: number; silentLooks?: number };
}): Promise<StartedWorker> {
  const metrics = createMetrics();
  const fired = new Set<string>();
  const giveUp = vi.fn<() => void>();
  const worker = deadlineWorker({
    redisUrl: options.url ?? redis.url,
    log: silent,
    metrics,
    partitions: () => Promise.resolve(options.partitions ?? [0]),
    partitionsEveryMs: 50,
    clock: options.clock ?? unwatched.clock,
    giveUp,
    watch: options.watch ?? watch,
    expire(orderIds) {
      for (const orderId of orderIds) fired.add(orderId);
      return Promise.resolve(
        new Map(orderIds.map((orderId) => [orderId, { answer: 'cancelled', latenessMs: 0 }])),
      );
    },
  });
  running.add(worker);
  await worker.start();
  return {
    metrics,
    fired,
    giveUp,
    async stop() {
      running.delete(worker);
      await worker.stop();
    },
  };
}

/** Arms a deadline and waits until it fired in one of the workers. */
async function expectFire(
  workers: readonly StartedWorker[],
  overrides: Partial<Deadline> = {},
): Promise<void> {
  const deadline = newDeadline(50, overrides);
  expect(await deadlines.armMany([deadline])).toMatchObject({ armed: 1, failed: 0 });
  await waitFor(() => workers.some(({ fired }) => fired.has(deadline.orderId)), {
    what: 'the job to fire',
    timeoutMs: 15_000,
  });
  expect(workers.some(({ fired }) => fired.has(deadline.orderId))).toBe(true);
}

const replacements = ({ metrics }: StartedWorker) => metric(metrics, 'lapse_worker_replacements_total');
const canariesFired = async ({ metrics }: StartedWorker) => {
  const { values } = (await metrics.getSingleMetric('lapse_canary_lateness_ms')?.get()) ?? { values: [] };
  return values
    .filter((value) => 'metricName' in value && value.metricName === 'lapse_canary_lateness_ms_count')
    .reduce((sum, { value }) => sum + value, 0);
};
const canaryKeys = () => redis.client.keys('*canary*');

/**
 * The next wait for a job of this partition never ends, whatever happens: the loop of that worker stands still for good.
 *
 * @returns whether it has come to that
 */
function wedgeNext(partition: number): () => boolean {
  const waitForJob = Object.getOwnPropertyDescriptor(RedisQueueBackend.prototype, 'waitForJob')?.value;
  let isWedged = false;
  vi.spyOn(RedisQueueBackend.prototype, 'waitForJob').mockImplementation(function (
    this: RedisQueueBackend,
    timeout,
  ) {
    if (isWedged || this.name !== partitionQueueName(partition)) {
      return Reflect.apply(waitForJob, this, [timeout]);
    }
    isWedged = true;
    return new Promise(() => undefined);
  });
  return () => isWedged;
}

describe('canaries', () => {
  test('fire and are measured, and neither orders nor Bull Board see them', async () => {
    const worker = await startWorker({ partitions: [0, 7] });
    await waitFor(async () => (await canariesFired(worker)) >= 4, { what: 'canaries', timeoutMs: 10_000 });
    expect(await metric(worker.metrics, 'lapse_canaries_missing_total')).toBe(0);
    expect([...worker.fired]).toEqual([]);
    await waitFor(
      async () => {
        const depths = [...(await deadlines.depths([0, 7])).values()];
        return depths.every(({ delayed, waiting, active }) => delayed + waiting + active <= 1);
      },
      { what: 'one canary at most in each' },
    );
    for (const depths of (await deadlines.depths([0, 7])).values()) {
      expect(depths).toMatchObject({ completed: 0, failed: 0 });
    }
  });

  test('there is one in a partition, however many workers there are', async () => {
    const workers = await Promise.all(
      Array.from({ length: 5 }, () => startWorker({ watch: { everyMs: 20 } })),
    );
    let most = 0;
    await waitFor(
      async () => {
        most = Math.max(most, (await canaryKeys()).filter((key) => !key.endsWith(':lock')).length);
        const counts = await Promise.all(workers.map(canariesFired));
        return counts.reduce((sum, count) => sum + count, 0) >= 5;
      },
      { what: 'canaries', timeoutMs: 15_000 },
    );
    expect(most).toBe(1);
  });

  test('of a killed process are consumed by the others and vanish', async () => {
    const child = await startChild('well');
    await waitFor(async () => (await canaryKeys()).length > 0, { what: 'a canary' });
    child.kill('SIGKILL');
    await child.exited;
    const left = await canaryKeys();
    const other = await startWorker({ watch: unwatched.watch });
    await waitFor(async () => (await canaryKeys()).length === 0, {
      what: 'the canary to vanish',
      timeoutMs: 15_000,
    });
    expect(await canariesFired(other)).toBe(Math.min(1, left.length));
    expect((await deadlines.depths([0])).get(0)).toMatchObject({ completed: 0, failed: 0, delayed: 0 });
  });

  test('go on after one was kept as failed, or lost its hash, or Redis lost everything', async () => {
    const queue = deadlines.queue(0);
    await redis.client.hset(queue.toKey(canaryId(0)), { timestamp: '1', finishedOn: '2', name: 'canary' });
    await redis.client.zadd(queue.toKey('failed'), 2, canaryId(0));
    const worker = await startWorker({});
    const more = async (what: string) => {
      const before = await canariesFired(worker);
      await waitFor(async () => (await canariesFired(worker)) > before, { what, timeoutMs: 10_000 });
    };
    await more('the first canary');
    await waitFor(async () => (await redis.client.del(queue.toKey(canaryId(0)))) === 1, { what: 'a hash' });
    await more('a canary after the one without a hash');
    await redis.client.flushall();
    await more('a canary after the loss');
    expect((await deadlines.depths([0])).get(0)).toMatchObject({ completed: 0, failed: 0 });
    expect(await replacements(worker)).toBe(0);
  });
});

test('who compares jobs with rows sees no canary', async () => {
  const deadline = newDeadline(60_000);
  await deadlines.armMany([deadline]);
  await redis.client.zadd(deadlines.queue(0).toKey('delayed'), 1, canaryId(0));
  expect(await deadlines.armedPage(0, { after: 0, limit: 10 })).toEqual({
    orderIds: [deadline.orderId],
    next: null,
  });
  // A page is full by what was read of it.
  expect(await deadlines.armedPage(0, { after: 0, limit: 1 })).toEqual({ orderIds: [], next: 1 });
});

describe('a worker whose loop stands still', () => {
  test('is replaced, and jobs fire again', async () => {
    wedgeNext(0);
    const worker = await startWorker({});
    await waitFor(async () => (await replacements(worker)) === 1, {
      what: 'the replacement',
      timeoutMs: 15_000,
    });
    await expectFire([worker]);
    await waitFor(async () => (await canariesFired(worker)) > 0, { what: 'a canary', timeoutMs: 10_000 });
    expect(await replacements(worker)).toBe(1);
    expect(worker.giveUp).not.toHaveBeenCalled();
  });

  test('leaves the other partitions as they are', async () => {
    const isWedged = wedgeNext(1);
    const worker = await startWorker({ partitions: [0, 1, 2] });
    await waitFor(isWedged, { what: 'the wedge' });
    await expectFire([worker]);
    await expectFire([worker], { partition: 2 });
    await expectFire([worker], { partition: 1 });
    expect(await replacements(worker)).toBe(1);
    expect(await metric(worker.metrics, 'lapse_worker_replacements_total', '1')).toBe(1);
  });

  test('is replaced though others consume its partition, and they are not', async () => {
    const isWedged = wedgeNext(0);
    // An idle worker beside others may wait 10 s for its turn.
    const patient = { everyMs: 500, silentLooks: 24 };
    const worker = await startWorker({ watch: patient });
    await waitFor(isWedged, { what: 'the wedge' });
    const other = await startWorker({ watch: patient });
    await waitFor(async () => (await replacements(worker)) === 1, {
      what: 'the replacement',
      timeoutMs: 20_000,
    });
    expect(await metric(worker.metrics, 'lapse_canaries_missing_total')).toBe(0);
    await expectFire([worker, other]);
    expect(await replacements(other)).toBe(0);
  });

  test('again and again ends the process, with an exit code that is not 0', async () => {
    const child = await startChild('wedged');
    expect(await child.exited).toEqual({ code: 1, signal: null });
    const messages = child.messages();
    expect(messages.filter((message) => message === 'queue worker was silent and is replaced')).toHaveLength(
      3,
    );
    expect(messages.filter((message) => message === 'queue worker stays silent, giving up')).toHaveLength(1);
    expect(messages.at(-1)).toBe('stopped');
  });
});

describe('nothing is replaced', () => {
  // Longer than it takes to replace a worker; and, for the second, than to give up a silent connection.
  test.each([
    ['refuses connections', 5000],
    ['is silent', 8000],
  ])('while Redis %s for long, and all works again afterwards', async (how, outageMs) => {
    const proxy = await startProxy({ target: { host: '127.0.0.1', port: redis.port } });
    const worker = await startWorker({ url: proxy.urlFor(redis.url), partitions: [0, 1] });
    await waitFor(async () => (await canariesFired(worker)) > 0, { what: 'a canary', timeoutMs: 10_000 });
    if (how === 'is silent') proxy.blackhole();
    else await proxy.refuse();
    await delay(outageMs);
    expect(await replacements(worker)).toBe(0);
    await proxy.restore();
    await expectFire([worker]);
    await expectFire([worker], { partition: 1 });
    expect(worker.giveUp).not.toHaveBeenCalled();
    await worker.stop();
    await proxy.stop();
  });

  test('while Redis refuses to write', async () => {
    const worker = await startWorker({});
    await waitFor(async () => (await canariesFired(worker)) > 0, { what: 'a canary', timeoutMs: 10_000 });
    await redis.client.config('SET', 'maxmemory', '1');
    await delay(4000);
    await redis.client.config('SET', 'maxmemory', '0');
    await expectFire([worker]);
    expect(await replacements(worker)).toBe(0);
  });

  test('while somebody paused the whole queue', async () => {
    const worker = await startWorker({});
    await deadlines.queue(0).pause();
    await waitFor(async () => (await metric(worker.metrics, 'lapse_canaries_missing_total')) > 0, {
      what: 'the canary to be missed',
      timeoutMs: 30_000,
    });
    expect(await replacements(worker)).toBe(0);
    await deadlines.queue(0).resume();
    await expectFire([worker]);
  });
});

describe('a worker whose clock is wrong', () => {
  test('fetches nothing, leaves the jobs to others, and goes on when it is right', async () => {
    let offsetMs = 30_000;
    const metrics = createMetrics();
    const clock = watchClock({
      clockOffsetMs: () => Promise.resolve(offsetMs),
      log: silent,
      metrics,
      everyMs: 20,
    });
    running.add(clock);
    await clock.start();
    const wrong = await startWorker({ clock });
    const due = newDeadline(0);
    await deadlines.armMany([due]);
    // Twenty reads of the partitions.
    await delay(1000);
    expect([...wrong.fired]).toEqual([]);
    expect((await deadlines.inspect(due))?.state).toBe('waiting');

    const right = await startWorker({});
    await waitFor(() => right.fired.has(due.orderId), { what: 'the other worker to fire it' });
    offsetMs = 100;
    await right.stop();
    await expectFire([wrong]);
    offsetMs = -30_000;
    await waitFor(() => !clock.isRight(), { what: 'the clock to be wrong again' });
    await waitFor(async () => !(await isConsumed()), { what: 'the worker to stop' });
    offsetMs = 0;
    await expectFire([wrong]);
  });
});

/** Whether a worker waits for jobs of partition 0. */
async function isConsumed(): Promise<boolean> {
  return String(await redis.client.client('LIST')).includes('cmd=bzpopmin');
}

/** Starts a worker in a process of its own, and waits until it runs. */
async function startChild(behaviour: 'well' | 'wedged') {
  const child = await spawnGuarded(
    process.execPath,
    [fileURLToPath(new URL('fixtures/worker.ts', import.meta.url)), redis.url, behaviour],
    { name: 'worker' },
  );
  const messages = (): string[] =>
    child.logs().map((line) => (line.startsWith('{') ? String(JSON.parse(line).msg) : line));
  await waitFor(() => messages().includes('ready'), { what: 'the process to run', timeoutMs: 20_000 });
  return { ...child, messages };
}
