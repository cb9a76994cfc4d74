import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { PendingCursor, PendingDeadline } from './pending.ts';
import type { RebuildPorts } from './rebuild.ts';
import { aPayment, openTestOrders, place, placeMany, type TestOrders } from './testing.ts';

let shop: TestOrders;

beforeAll(async () => {
  shop = await openTestOrders({ partitionCount: 4 });
  await shop.orders.setStock('a', null);
});

afterAll(async () => {
  await shop.close();
});

beforeEach(async () => {
  await shop.database.query(
    "update orders set status = 'cancelled', cancel_reason = 'merchant', cancelled_at = now() where status = 'pending_payment'",
  );
  await shop.database.query('delete from rebuilds');
});

/** A timer that remembers what it was told, and loses it on demand. */
function aTimer(): RebuildPorts & { armed: PendingDeadline[]; begun: number; isLost: boolean } {
  const timer = {
    armed: [] as PendingDeadline[],
    begun: 0,
    isLost: false,
    isWhole: () => Promise.resolve(!timer.isLost),
    begin: () => {
      timer.begun += 1;
      timer.isLost = false;
      timer.armed = [];
      return Promise.resolve();
    },
    arm: (deadlines: readonly PendingDeadline[]) => {
      timer.armed.push(...deadlines);
      return Promise.resolve(deadlines.length);
    },
  };
  return timer;
}

const byHand = { reason: 'by hand', actor: 'test', partitions: null };

describe('a rebuild', () => {
  test('arms every pending deadline once, in pages, those that are due first', async () => {
    const orders = await placeMany(shop.orders, 25);
    const paid = await place(shop.orders);
    await shop.orders.pay(aPayment(paid));
    const rebuild = await shop.orders.requestRebuild(byHand);
    const timer = aTimer();
    const states: string[] = [];
    for (let state = ''; state !== 'idle';) {
      ({ state } = await shop.orders.rebuildStep(10, timer));
      states.push(state);
    }
    expect(states).toEqual(['armed', 'armed', 'done', 'idle']);
    expect(new Set(timer.armed.map(({ orderId }) => orderId))).toEqual(new Set(orders.map(({ id }) => id)));
    expect(timer.armed.length).toBe(25);
    expect(await shop.orders.findRebuild(rebuild?.id ?? '')).toMatchObject({
      armedCount: 25,
      doneAt: expect.any(Date),
    });
  });

  test('is asked for once while one is under way', async () => {
    const answers = await Promise.all(Array.from({ length: 8 }, () => shop.orders.requestRebuild(byHand)));
    expect(answers.filter((answer) => answer !== undefined).length).toBe(1);
  });

  test('of some partitions leaves the others alone', async () => {
    const orders = await placeMany(shop.orders, 60);
    await shop.orders.requestRebuild({ ...byHand, partitions: [1, 3] });
    const timer = aTimer();
    expect((await shop.orders.rebuildStep(1000, timer)).state).toBe('done');
    const wished = orders.filter(({ partition }) => partition === 1 || partition === 3);
    expect(timer.armed.length).toBe(wished.length);
    expect(new Set(timer.armed.map(({ partition }) => partition))).toEqual(new Set([1, 3]));
  });

  test('counts only what the timer armed', async () => {
    await placeMany(shop.orders, 20);
    const rebuild = await shop.orders.requestRebuild(byHand);
    const half = { ...aTimer(), arm: (page: readonly PendingDeadline[]) => Promise.resolve(page.length / 2) };
    const steps = [await shop.orders.rebuildStep(10, half), await shop.orders.rebuildStep(10, half)];
    for (let state = ''; state !== 'idle';) ({ state } = await shop.orders.rebuildStep(10, half));
    expect(steps.map((step) => 'rebuild' in step && step.rebuild.armedCount)).toEqual([5, 10]);
    expect((await shop.orders.findRebuild(rebuild?.id ?? ''))?.armedCount).toBe(10);
  });

  test('goes on with the same page after a step that failed, in another process', async () => {
    await placeMany(shop.orders, 20);
    await shop.orders.requestRebuild(byHand);
    const timer = aTimer();
    await shop.orders.rebuildStep(10, timer);
    const broken = { ...timer, arm: () => Promise.reject(new Error('redis is away')) };
    await expect(shop.orders.rebuildStep(10, broken)).rejects.toThrow('redis is away');
    const other = shop.another();
    expect((await other.orders.rebuildStep(10, timer)).state).toBe('armed');
    expect((await other.orders.rebuildStep(10, timer)).state).toBe('done');
    expect(timer.begun).toBe(1);
    expect(new Set(timer.armed.map(({ orderId }) => orderId)).size).toBe(20);
  });

  test('begins again where the timer lost what was armed', async () => {
    await placeMany(shop.orders, 20);
    const rebuild = await shop.orders.requestRebuild(byHand);
    const timer = aTimer();
    await shop.orders.rebuildStep(10, timer);
    timer.isLost = true;
    for (let state = ''; state !== 'done';) ({ state } = await shop.orders.rebuildStep(10, timer));
    expect(timer.begun).toBe(2);
    expect(new Set(timer.armed.map(({ orderId }) => orderId)).size).toBe(20);
    expect((await shop.orders.findRebuild(rebuild?.id ?? ''))?.armedCount).toBe(20);
  });

  test('is done by one process at a time', async () => {
    await placeMany(shop.orders, 5);
    await shop.orders.requestRebuild(byHand);
    const other = shop.another();
    const timer = aTimer();
    const meanwhile: string[] = [];
    await shop.orders.rebuildStep(10, {
      ...timer,
      async arm() {
        meanwhile.push((await other.orders.rebuildStep(10, timer)).state);
        return 0;
      },
    });
    expect(meanwhile).toEqual(['idle']);
    expect(timer.armed).toEqual([]);
  });
});

test('pages of pending orders lose none whose deadlines are the same', async () => {
  await placeMany(shop.orders, 30);
  await shop.database.query("update orders set check_at = '2030-01-01Z' where status = 'pending_payment'");
  const seen: string[] = [];
  let after: PendingCursor | null = null;
  do {
    const page = await shop.orders.pendingPage({ after, limit: 7, partitions: null });
    seen.push(...page.deadlines.map(({ orderId }) => orderId));
    after = page.next;
  } while (after !== null);
  expect(seen.length).toBe(30);
  expect(new Set(seen).size).toBe(30);
});

test('pendingAmong leaves out what is settled and what never was', async () => {
  const [pending, paid] = [await place(shop.orders), await place(shop.orders)];
  await shop.orders.pay(aPayment(paid));
  const unknown = '00000000-0000-7000-8000-000000000000';
  expect(await shop.orders.pendingAmong([pending.id, paid.id, unknown])).toEqual(new Set([pending.id]));
});
