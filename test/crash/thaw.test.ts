import { inParallel, waitFor } from '@lapse/devstack';
import { describe, expect, test } from 'vitest';

import {
  jobState,
  prepareStages,
  placeUnarmed,
  story,
  untilArmed,
  untilLapsed,
  type Stage,
} from './stage.ts';
import { pageSize } from './victims/page-size.ts';

const timeoutMs = 30_000;

const stages = prepareStages();

interface Thawing {
  /** Those of the first page that lapse soon, those of it that lapse later, and those of the next page. */
  readonly near: readonly string[];
  readonly far: readonly string[];
  readonly next: readonly string[];
  /** Expects that each was moved once, by exactly the time it stood still. */
  readonly expectMovedExactly: () => Promise<void>;
}

/** Freezes, places orders that nobody arms, thaws, and kills the process that thaws in the middle of the first page. */
async function killInThaw(
  stage: Stage,
  role: 'worker' | 'steps',
  ...point: readonly string[]
): Promise<Thawing> {
  const { orders } = stage;
  const { id: freezeId } = await orders.freeze({ reason: 'a fire drill', actor: 'test' });
  const windows = [2000, 2000, 600_000, 600_000, 700_000, 700_000];
  const placed = await inParallel(windows.length, windows.length, (n) =>
    placeUnarmed(stage, { paymentWindowMs: windows[n] ?? 0 }),
  );
  const thawing = await orders.thaw(freezeId, 'test');
  const victim = await stage.startVictim(role, ...point);
  await victim.kill({ when: 'halted' });
  const ids = placed.map(({ id }) => id);
  return {
    near: ids.slice(0, 2),
    far: ids.slice(2, pageSize),
    next: ids.slice(pageSize),
    async expectMovedExactly() {
      for (const { id, createdAt, expireAt } of placed) {
        const stoodMs = (thawing?.thawingAt?.getTime() ?? 0) - createdAt.getTime();
        const moved = await orders.find(id);
        expect((moved?.expireAt?.getTime() ?? 0) - (expireAt?.getTime() ?? 0)).toBe(stoodMs);
        expect((await story(stage, id)).filter((type) => type === 'order.thawed')).toHaveLength(1);
      }
    },
  };
}

/** Starts a worker, and expects that every order is moved, is armed where there is time, and lapses where there is not. */
async function expectThawed(stage: Stage, { near, far, next, expectMovedExactly }: Thawing): Promise<void> {
  const worker = await stage.add('worker');
  await waitFor(async () => (await stage.orders.activeFreeze()) === undefined, {
    what: 'the end of the thaw',
    timeoutMs,
  });
  // A worker that has just started arms what it moves itself, and leaves nothing for the drift to find.
  const pages = worker.logs().filter((line) => line.includes('frozen deadlines moved'));
  expect(pages.filter((line) => !line.includes('"failed":0'))).toEqual([]);
  await expectMovedExactly();
  await Promise.all([...far, ...next].map((id) => untilArmed(stage, id)));
  await Promise.all(near.map((id) => untilLapsed(stage, id)));
  await expectMovedExactly();
}

const movedCount = async (stage: Stage, ids: readonly string[]): Promise<number> => {
  const stories = await Promise.all(ids.map((id) => story(stage, id)));
  return stories.filter((types) => types.includes('order.thawed')).length;
};

describe.concurrent('thaw', () => {
  test(
    'page moved → killed → COMMIT: nothing was moved, another moves every order, by exactly its time',
    () =>
      stages.play(async (stage) => {
        const thawing = await killInThaw(stage, 'steps', 'thaw', 'commit', 'before');
        expect(await movedCount(stage, [...thawing.near, ...thawing.far, ...thawing.next])).toBe(0);
        await expectThawed(stage, thawing);
      }),
    60_000,
  );

  test(
    'page moved, COMMIT → killed → arm: the page lapses at its new deadlines, swept or armed by the comparison',
    () =>
      stages.play(async (stage) => {
        const thawing = await killInThaw(stage, 'steps', 'thaw', 'armMany', 'before');
        expect(await movedCount(stage, [...thawing.near, ...thawing.far])).toBe(pageSize);
        expect(await movedCount(stage, thawing.next)).toBe(0);
        for (const id of [...thawing.near, ...thawing.far]) expect(await jobState(stage, id)).toBe('none');
        await expectThawed(stage, thawing);
      }),
    60_000,
  );

  test(
    'page armed → killed → next page: another moves the next page only, each order once',
    () =>
      stages.play(async (stage) => {
        const thawing = await killInThaw(stage, 'steps', 'thaw', 'armMany', 'after');
        for (const id of thawing.far) expect(await jobState(stage, id)).toBe('delayed');
        for (const id of thawing.next) expect(await jobState(stage, id)).toBe('none');
        await expectThawed(stage, thawing);
      }),
    60_000,
  );

  test(
    'all moved by a whole worker, COMMIT → killed → arm: swept or armed by the comparison of another',
    () =>
      stages.play(async (stage) => {
        const thawing = await killInThaw(stage, 'worker', 'armMany', 'before');
        const ids = [...thawing.near, ...thawing.far, ...thawing.next];
        expect(await movedCount(stage, ids)).toBe(ids.length);
        for (const id of ids) expect(await jobState(stage, id)).toBe('none');
        await expectThawed(stage, thawing);
      }),
    60_000,
  );
});
