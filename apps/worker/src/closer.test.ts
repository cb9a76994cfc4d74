import { inParallel, waitFor } from '@lapse/devstack';
import type { PaymentProvider } from '@lapse/payments';
import { createMetrics, type Metrics } from '@lapse/runtime';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { closer, type Closer } from './closer.ts';
import { aProvider, beginToPay, openStage, silent, type Stage } from './testing.ts';

let stage: Stage;
let metrics: Metrics;
let close: Closer;
/** Lets the slow provider answer. */
let answer: () => void;
/** How many calls the slow provider has before it. */
let slowCount: number;

beforeEach(async () => {
  stage = await openStage();
  metrics = createMetrics();
  const { promise, resolve } = Promise.withResolvers<undefined>();
  answer = () => resolve(undefined);
  slowCount = 0;
  const closed = { verdict: 'closed' } as const;
  const slowly = async () => {
    slowCount += 1;
    await promise;
    return closed;
  };
  const providers = new Map<string, PaymentProvider>(
    [
      aProvider('slow', { close: slowly, look: slowly }),
      aProvider('fast', {
        close: () => Promise.resolve(closed),
        look: () => Promise.resolve({ verdict: 'open' }),
      }),
    ].map((provider) => [provider.name, provider]),
  );
  const { orders, deadlines } = stage;
  close = closer({ orders, deadlines, providers, log: silent, metrics });
  return async () => {
    answer();
    await close.stop();
    await stage.close();
  };
});

/** Orders of which each has a page open at these providers. */
async function begin(count: number, provider: string): Promise<string[]> {
  const begun = await inParallel(count, 20, () => beginToPay(stage, provider));
  return begun.map(({ orderId }) => orderId);
}

/** Lets the time of orders end, and hands them over as expiry does. */
async function takeDue(orderIds: readonly string[]): Promise<void> {
  await stage.database.query(
    `update orders set created_at = created_at - interval '1 day', deadline_at = now(), expire_at = now(), check_at = now()
     where id = any ($1::uuid[])`,
    [orderIds],
  );
  close.take(await stage.orders.expire(orderIds, 'test'));
}

async function untilCancelled(orderIds: readonly string[]): Promise<void> {
  const left = async () => {
    const { rows } = await stage.database.query<{ id: string }>(
      `select id from orders where id = any ($1::uuid[]) and status <> 'cancelled'`,
      [orderIds],
    );
    return rows.length;
  };
  await waitFor(async () => (await left()) === 0, { what: 'the orders to be cancelled', timeoutMs: 20_000 });
}

async function figure(name: string): Promise<number | undefined> {
  return (await metrics.getSingleMetric(name)?.get())?.values[0]?.value;
}

describe('a provider that is slow', () => {
  test('holds up no order of another, however many of its own are due before it', async () => {
    const [slow, fast] = [await begin(100, 'slow'), await begin(30, 'fast')];
    await takeDue([...slow, ...fast]);
    await untilCancelled(fast);
    // A lane for each of so many; the others that fit wait for one, and those that do not come back later.
    expect(slowCount).toBe(20);
    expect(await figure('lapse_closing_orders_in_hand')).toBe(60);
    const putOffCount = async () => {
      const { rows } = await stage.database.query<{ count: number }>(
        `select count(*) as count from orders
         where id = any ($1::uuid[]) and check_at < clock_timestamp() + interval '5 seconds'`,
        [slow],
      );
      return rows[0]?.count;
    };
    await waitFor(async () => (await putOffCount()) === 40, { what: 'the others to be put off' });
    expect(await figure('lapse_closer_cancelled_total')).toBe(30);
    answer();
    await waitFor(async () => (await figure('lapse_closer_cancelled_total')) === 90, {
      what: 'those in hand to be cancelled',
      timeoutMs: 20_000,
    });
  });

  test('holds up no question to another, however many to it are due before', async () => {
    await begin(120, 'slow');
    const { attemptId, orderId } = await beginToPay(stage, 'fast');
    for (const provider of ['slow', 'fast']) await stage.orders.requestReconcile({ provider, sinceMs: null });
    await close.start();
    await waitFor(
      async () => (await stage.orders.attempts(orderId)).find(({ id }) => id === attemptId)?.verdict,
      { what: 'the answer about the other', timeoutMs: 20_000 },
    );
    expect(slowCount).toBe(20);
    answer();
    await waitFor(() => slowCount === 120, { what: 'all of its own questions', timeoutMs: 20_000 });
  });

  test('is waited for no longer than five seconds when its worker stops', async () => {
    await begin(1, 'slow');
    await stage.orders.requestReconcile({ provider: 'slow', sinceMs: null });
    await close.start();
    await waitFor(() => slowCount === 1, { what: 'the question', timeoutMs: 20_000 });
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const stopping = close.stop();
      await vi.advanceTimersByTimeAsync(5000);
      await expect(stopping).resolves.toBeUndefined();
    } finally {
      vi.useRealTimers();
    }
  });
});

describe('after the verdict', () => {
  test('an order that cannot be looked at holds up no other, and is counted', async () => {
    const [stuck = '', ...others] = await begin(5, 'fast');
    const { orders } = stage;
    const expire = orders.expire.bind(orders);
    vi.spyOn(orders, 'expire').mockImplementation((ids, actor) =>
      actor === 'worker' && ids.includes(stuck)
        ? Promise.reject(new Error('the database is away'))
        : expire(ids, actor),
    );
    await takeDue([stuck, ...others]);
    await untilCancelled(others);
    await waitFor(async () => (await figure('lapse_closer_errors_total')) === 1, { what: 'the error' });
    expect(await figure('lapse_closer_cancelled_total')).toBe(4);
    expect(await orders.find(stuck)).toMatchObject({ status: 'pending_payment' });
    // It is due for the sweeper at once.
    expect((await orders.sweep(10, 'test')).get(stuck)).toMatchObject({ answer: 'cancelled' });
  });

  test('an order that the database refuses to cancel is counted', async () => {
    const [poisoned = ''] = await begin(1, 'fast');
    // It holds stock that the books do not know of.
    await stage.database.query(`update stock set on_hand = 0, held = 0 where sku = 'a'`);
    await takeDue([poisoned]);
    await waitFor(async () => (await figure('lapse_closer_failed_total')) === 1, { what: 'the failure' });
    expect(await figure('lapse_closer_cancelled_total')).toBe(0);
    expect(await figure('lapse_closing_orders_in_hand')).toBe(0);
  });
});
