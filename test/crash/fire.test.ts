import { inParallel, waitFor } from '@lapse/devstack';
import { describe, expect, test } from 'vitest';

import { metric, untilNonePending } from '../e2e/fleet.ts';
import { jobState, prepareStages, place, untilArmed, untilJob, untilLapsed, type Stage } from './stage.ts';

const orderCount = 20;
const timeoutMs = 30_000;

const stages = prepareStages();

/** Places orders that are due together, and kills a worker that has the jobs of all of them in hand. */
async function killWithJobsInHand(stage: Stage, ...point: readonly [call: string, moment: string]) {
  const victim = await stage.startVictim('fire', ...point);
  const ids = (await inParallel(orderCount, orderCount, () => place(stage, 1500))).map(({ id }) => id);
  await victim.untilHalted();
  await Promise.all(ids.map((id) => untilJob(stage, id, 'active')));
  await victim.kill();
  return ids;
}

/** Expects that all jobs come back to the new workers, and end there, after the orders did. */
async function expectRecovered(stage: Stage, ids: readonly string[], expected: { settled: number }) {
  const workers = [await stage.add('worker'), await stage.add('worker')];
  await untilNonePending(stage.database, timeoutMs);
  await Promise.all(ids.map((id) => untilLapsed(stage, id)));
  await Promise.all(ids.map((id) => untilJob(stage, id, 'completed')));
  const fired = async (answer: string): Promise<number> => {
    const counts = await Promise.all(
      workers.map((worker) => metric(worker, `lapse_deadline_fires_total{answer="${answer}"}`)),
    );
    return counts.reduce((sum, count) => sum + count, 0);
  };
  const settled = await fired('settled');
  expect(settled).toBeGreaterThanOrEqual(expected.settled);
  expect(settled + (await fired('cancelled'))).toBe(orderCount);
}

/** How many of the orders the killed worker has cancelled. */
async function cancelledByJobs({ orders }: Stage, ids: readonly string[]): Promise<number> {
  const found = await Promise.all(ids.map((id) => orders.find(id)));
  return found.filter((order) => order?.status === 'cancelled').length;
}

describe.concurrent('fire', () => {
  test(
    'fire → killed with all jobs in hand → expire: others cancel each order once, and the jobs come back',
    () =>
      stages.play(async (stage) => {
        const ids = await killWithJobsInHand(stage, 'expire', 'before');
        expect(await cancelledByJobs(stage, ids)).toBe(0);
        await expectRecovered(stage, ids, { settled: 0 });
      }),
    60_000,
  );

  test(
    'expire statement → killed → COMMIT: nothing is cancelled, no row stays locked, others cancel each once',
    () =>
      stages.play(async (stage) => {
        const ids = await killWithJobsInHand(stage, 'commit', 'before');
        expect(await cancelledByJobs(stage, ids)).toBe(0);
        await expectRecovered(stage, ids, { settled: 0 });
      }),
    60_000,
  );

  test(
    'expire COMMIT → killed → complete: the jobs come back, find the orders settled, complete; one event each',
    () =>
      stages.play(async (stage) => {
        const ids = await killWithJobsInHand(stage, 'expire', 'after');
        const cancelledCount = await cancelledByJobs(stage, ids);
        expect(cancelledCount).toBeGreaterThan(0);
        await expectRecovered(stage, ids, { settled: cancelledCount });
      }),
    60_000,
  );
});

/** An order whose deadline was extended while its job stays at the old instant. */
async function placeWithEarlyJob(stage: Stage, byMs: number) {
  const order = await place(stage, 1500);
  const extended = await stage.orders.extend({ orderId: order.id, to: { byMs }, actor: 'test' });
  expect(extended.outcome).toBe('extended');
  return order;
}

describe.concurrent('not_due', () => {
  test(
    'expire answers not_due → killed → moveToDelayed: the job comes back, is delayed again, the order lapses',
    () =>
      stages.play(async (stage) => {
        const victim = await stage.startVictim('fire', 'expire', 'after');
        const { id } = await placeWithEarlyJob(stage, 24_000);
        await victim.kill({ when: 'halted' });
        expect(await jobState(stage, id)).toBe('active');
        await stage.add('worker');
        await untilArmed(stage, id);
        expect((await stage.orders.find(id))?.status).toBe('pending_payment');
        await untilLapsed(stage, id, { latenessMs: 3000 });
        await untilJob(stage, id, 'completed');
      }),
    60_000,
  );

  test(
    'moveToDelayed → killed: the job stays delayed, another worker fires it at the new deadline',
    () =>
      stages.play(async (stage) => {
        const { id, expireAt } = await placeWithEarlyJob(stage, 24_000);
        const first = await stage.add('worker');
        const wasMoved = async (): Promise<boolean> => {
          const job = await stage.deadlines.inspect({ orderId: id, partition: 0 });
          return (job?.firesAt?.getTime() ?? 0) > (expireAt?.getTime() ?? 0) + 4000;
        };
        await waitFor(wasMoved, { what: 'the job to be delayed again', timeoutMs });
        first.kill('SIGKILL');
        await first.exited;
        expect(await jobState(stage, id)).toBe('delayed');
        await stage.add('worker');
        await untilLapsed(stage, id, { latenessMs: 3000 });
        await untilJob(stage, id, 'completed');
      }),
    60_000,
  );
});
