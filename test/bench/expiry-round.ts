import { setTimeout as delay } from 'node:timers/promises';

import type { Expirer, RunningExpirer } from './expirers.ts';
import {
  expectWhole,
  placeOrders,
  readEnding,
  settleDown,
  untilCancelled,
  warmUp,
  type Ending,
  type Plan,
  type Scene,
  type Stage,
} from './stage.ts';

/** What one round told. */
export interface Round {
  readonly ending: Ending;
  /** From the instant all were due to the end of the last job; null where jobs end with their orders, ms. */
  readonly jobsGoneMs: number | null;
}

/** Is told, when the first order is due, which processes cancel; what it returns is told when the last is cancelled. */
export type Watch = (pids: readonly number[]) => () => void;

/** Plays rounds of expiry. */
export type PlayRound = (
  expirer: Expirer,
  plan: Omit<Plan, 'partitionCount'>,
  watch?: Watch,
) => Promise<Round>;

/** So long before the first order is due, those that warm up included, everything has to be ready, ms. */
const calmMs = 250;

/** Longest that a queue may take for jobs whose orders are cancelled, ms. */
const jobsPatienceMs = 120_000;

/**
 * A round: a fresh scene, idle processes, orders placed in SQL and armed each expirer's own way, and all that before the
 * first is due. How long that takes is learned from the round before, so that little time is spent waiting.
 */
export function createRounds(stage: Stage): PlayRound {
  const leads = new Map<string, number>();
  return async (expirer, plan, watch) => {
    const known = `${expirer.name} ${plan.orderCount}`;
    for (let attempt = 1; ; attempt += 1) {
      const leadMs = leads.get(known) ?? warmUp.beforeMs + 3000 + plan.orderCount / 4;
      const scene = await stage.openScene();
      let running: RunningExpirer | undefined;
      try {
        running = await expirer.start(scene);
        const startedAt = Date.now();
        const full = { ...plan, partitionCount: expirer.partitionCount };
        const dueAt = await placeOrders(scene, full, leadMs);
        await running.arm();
        await settleDown(scene);
        const tookMs = Date.now() - startedAt;
        leads.set(known, warmUp.beforeMs + 1.3 * tookMs + 2 * calmMs);
        const isInTime = dueAt.getTime() - warmUp.beforeMs - Date.now() >= calmMs;
        if (isInTime) return await play(scene, full, running, dueAt, expirer, watch);
        if (attempt === 3) throw new Error(`${expirer.name} was not ready in time: ${tookMs} ms`);
      } finally {
        await running?.stop();
        await scene.close();
      }
    }
  };
}

async function play(
  scene: Scene,
  plan: Plan,
  running: RunningExpirer,
  dueAt: Date,
  expirer: Expirer,
  watch: Watch | undefined,
): Promise<Round> {
  await delay(dueAt.getTime() - Date.now());
  const onCancelled = watch?.(running.pids);
  if (expirer.isIdle !== true) await untilCancelled(scene, plan, () => running.expectAlive());
  onCancelled?.();
  const jobsGoneMs = await untilJobsGone(running, dueAt);
  if (expirer.isIdle !== true) await expectWhole(scene, warmUp.orderCount + plan.orderCount);
  return { ending: await readEnding(scene, dueAt), jobsGoneMs };
}

async function untilJobsGone(running: RunningExpirer, dueAt: Date): Promise<number | null> {
  if (running.jobsLeft === undefined) return null;
  const giveUpAt = Date.now() + jobsPatienceMs;
  while ((await running.jobsLeft()) > 0) {
    running.expectAlive();
    if (Date.now() > giveUpAt) throw new Error('jobs are still left');
    await delay(20);
  }
  return Date.now() - dueAt.getTime();
}
