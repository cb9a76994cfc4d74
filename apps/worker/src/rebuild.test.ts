import type { Deadlines } from '@lapse/deadlines';
import { waitFor } from '@lapse/devstack';
import { createMetrics, type Service } from '@lapse/runtime';
import { beforeEach, expect, test, vi } from 'vitest';
import { rebuild } from './rebuild.ts';
import { openStage, silent, type Stage } from './testing.ts';

let stage: Stage;
let running: Service | undefined;

beforeEach(async () => {
  stage = await openStage();
  await stage.placeUnarmed(200);
  return async () => {
    await running?.stop();
    await stage.close();
  };
});

/** Starts to look for lost jobs in a Redis that is new, with `armMany` replaced; returns the log, and the looks. */
async function start(armMany: Deadlines['armMany']) {
  const warn = vi.spyOn(silent, 'warn');
  const info = vi.spyOn(silent, 'info');
  const epochs = vi.fn<Deadlines['epochs']>((...asked) => stage.deadlines.epochs(...asked));
  running = rebuild({
    orders: stage.orders,
    deadlines: { ...stage.deadlines, armMany, epochs },
    partitions: () => Promise.resolve([0, 1, 2]),
    log: silent,
    metrics: createMetrics(),
  });
  await running.start();
  return { warn, info, epochs };
}

test('a partition that refuses its jobs is owed them, and the others are armed', async () => {
  const { info, epochs } = await start(async (page) => {
    const answer = await stage.deadlines.armMany(page.filter(({ partition }) => partition === 0));
    return { ...answer, failed: page.length - answer.armed, failedPartitions: new Set([1]) };
  });
  await waitFor(() => info.mock.calls.length > 0, { what: 'the end of the rebuild' });
  expect(info).toHaveBeenCalledWith(
    expect.objectContaining({ armedCount: 100, owedPartitions: [1] }),
    'pending deadlines are armed again, but for owed partitions',
  );
  const lookCount = epochs.mock.calls.length;
  await waitFor(() => epochs.mock.calls.length > lookCount, { what: 'the next look' });
  await running?.stop();
  expect(await stage.rebuilds()).toMatchObject([{ reason: 'redis lost its jobs', armedCount: 100 }]);
});

test('where nothing can be armed the page is tried again, and the beginning is told once', async () => {
  let tries = 0;
  const { warn, info } = await start(async (page) => {
    tries += 1;
    if (tries > 2) return stage.deadlines.armMany(page);
    return { armed: 0, failed: page.length, failedPartitions: new Set([0, 1]) };
  });
  await waitFor(
    () => info.mock.calls.some(([, message]) => message === 'every pending deadline is armed again'),
    {
      what: 'the end of the rebuild',
    },
  );
  expect(await stage.rebuilds()).toMatchObject([{ armedCount: 200 }]);
  expect(warn.mock.calls.map(([, message]) => message)).toEqual(['arming every pending deadline again']);
});
