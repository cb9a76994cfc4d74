import { inParallel, waitFor } from '@lapse/devstack';
import { describe, expect, test } from 'vitest';

import { jobState, prepareStages, placeUnarmed, story, untilArmed, type Stage } from './stage.ts';
import { pageSize } from './victims/page-size.ts';

const timeoutMs = 30_000;

const stages = prepareStages();

const orderCount = pageSize + 2;

/** Places orders that nobody arms, asks for a rebuild, and kills the process that does its first page. */
async function killInRebuild(stage: Stage, role: 'worker' | 'steps', ...point: readonly string[]) {
  const ids = (
    await inParallel(orderCount, orderCount, () => placeUnarmed(stage, { paymentWindowMs: 600_000 }))
  ).map(({ id }) => id);
  const rebuild = await stage.orders.requestRebuild({ reason: 'a drill', actor: 'test', partitions: null });
  const victim = await stage.startVictim(role, ...point);
  await victim.kill({ when: 'halted' });
  return { ids, rebuildId: rebuild?.id ?? '' };
}

const delayedCount = async ({ deadlines }: Stage): Promise<number> =>
  (await deadlines.depths([0])).get(0)?.delayed ?? 0;

/** Starts two workers, and expects that they arm each deadline, once, and count it once. */
async function expectRebuilt(
  stage: Stage,
  { ids, rebuildId }: { ids: readonly string[]; rebuildId: string },
) {
  await Promise.all([stage.add('worker'), stage.add('worker')]);
  const rebuild = await waitFor(
    async () => {
      const found = await stage.orders.findRebuild(rebuildId);
      return found?.doneAt && found;
    },
    { what: 'the end of the rebuild', timeoutMs },
  );
  expect(rebuild.armedCount).toBe(orderCount);
  await Promise.all(ids.map((id) => untilArmed(stage, id)));
  const { orderIds } = await stage.deadlines.armedPage(0, { after: Date.now() * 4096, limit: 100 });
  expect(orderIds.filter((id) => ids.includes(id)).toSorted()).toEqual(ids.toSorted());
  for (const id of ids) expect(await story(stage, id)).toEqual(['order.placed']);
}

describe.concurrent('rebuild', () => {
  test(
    'page read → killed → arm: nothing is armed; another arms everything',
    () =>
      stages.play(async (stage) => {
        const rebuilding = await killInRebuild(stage, 'steps', 'rebuild', 'armMany', 'before');
        expect(await delayedCount(stage)).toBe(0);
        await expectRebuilt(stage, rebuilding);
      }),
    60_000,
  );

  test(
    'page armed → killed → progress saved: another arms the page again, which doubles nothing',
    () =>
      stages.play(async (stage) => {
        const rebuilding = await killInRebuild(stage, 'steps', 'rebuild', 'armMany', 'after');
        expect(await delayedCount(stage)).toBe(pageSize);
        expect((await stage.orders.findRebuild(rebuilding.rebuildId))?.armedCount).toBe(0);
        await expectRebuilt(stage, rebuilding);
      }),
    60_000,
  );

  test(
    'progress saved → killed → next page: another goes on from there',
    () =>
      stages.play(async (stage) => {
        const rebuilding = await killInRebuild(stage, 'steps', 'rebuild', 'commit', 'after');
        expect(await delayedCount(stage)).toBe(pageSize);
        expect((await stage.orders.findRebuild(rebuilding.rebuildId))?.armedCount).toBe(pageSize);
        await expectRebuilt(stage, rebuilding);
      }),
    60_000,
  );

  test(
    'all armed by a whole worker → killed → progress saved: another arms all again, which doubles nothing',
    () =>
      stages.play(async (stage) => {
        const rebuilding = await killInRebuild(stage, 'worker', 'armMany', 'after');
        for (const id of rebuilding.ids) expect(await jobState(stage, id)).toBe('delayed');
        expect((await stage.orders.findRebuild(rebuilding.rebuildId))?.armedCount).toBe(0);
        await expectRebuilt(stage, rebuilding);
      }),
    60_000,
  );
});
