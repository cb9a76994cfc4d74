import { setTimeout as delay } from 'node:timers/promises';

import type { Fault } from './faults.ts';
import { judge } from './judge.ts';
import { Load, notOpened } from './load.ts';
import {
  countTold,
  patienceMs,
  probe,
  readLateness,
  settle,
  type Lateness,
  type Recovery,
} from './measure.ts';
import { planOrders } from './plan.ts';
import { watch, type Progress } from './progress.ts';
import { between, randomOf } from './random.ts';
import type { Servers } from './servers.ts';
import { startSystem, type System } from './system.ts';

/** One run: a population of orders, and what goes wrong meanwhile. */
export interface RunOptions {
  /** Names the run, and with the seed decides its plan. */
  readonly name: string;
  readonly faults: readonly Fault[];
  /**
   * `one after the other`: each is healed before the next begins. `together`: each begins within 3 s of the first. They
   * happen again and again while orders are placed, at least once.
   */
  readonly order: 'one after the other' | 'together';
  readonly orderCount: number;
  readonly seed: number;
  readonly servers: Servers;
  /** Hears, a few times a second, how far it is. */
  readonly onProgress: (progress: Progress) => void;
}

/** What a run found. */
export interface RunResult extends Recovery {
  readonly name: string;
  readonly orderCount: number;
  /** How often the faults happened. */
  readonly strikeCount: number;
  readonly failures: Readonly<Record<string, number>>;
  readonly givenUpCount: number;
  readonly lostCount: number;
  readonly wrongCount: number;
  readonly duplicatedCount: number;
  /** Everything that is not as it should be. */
  readonly breaches: readonly string[];
  readonly lateness: Lateness;
  /** See `countTold`. */
  readonly told: Readonly<Record<string, number>>;
  /** More than 3 s, and no fault explains it: a breach of invariant 5, or the machine was busy with something else. */
  readonly isLate: boolean;
  readonly tookMs: number;
}

/** Load before the first fault, between two, and behind the last, ms. */
const quietMs = { before: 4000, between: 4000, after: 5000 };

/** Most orders placed in a second: two cores also run the servers, the payment providers, the proxies and the customers. */
const mostPerSecond = 150;

/** How late an order may be cancelled while a worker runs and PostgreSQL answers, ms: invariant 5. */
const mostLateMs = 3000;

/** Of the orders, how many are to be paid at a payment provider. */
const attemptShare = 0.2;

/** Starts a fleet on a fresh database, lets customers in, makes things go wrong, and checks every promise. */
export async function runChaos(options: RunOptions): Promise<RunResult> {
  const { name, faults, orderCount, servers, onProgress } = options;
  const startedAt = performance.now();
  const seed = `${options.seed}/${name}`;
  const together = options.order === 'together';
  const faultMs = together
    ? 3000 + Math.max(0, ...faults.map(({ lastsMs }) => lastsMs))
    : faults.reduce((sum, { lastsMs }) => sum + lastsMs + quietMs.between, -quietMs.between);
  const loadMs = Math.max(
    quietMs.before + Math.max(0, faultMs) + quietMs.after,
    (orderCount / mostPerSecond) * 1000,
  );

  const system = await startSystem(servers, seed);
  const load = new Load(system);
  const progress = watch(system, load, { name, wantedCount: orderCount, onProgress });
  try {
    await load.setStock();
    progress.phase = 'load';
    const loading = load.run(planOrders(seed, orderCount, loadMs, { attemptShare }));
    const loadedAt = performance.now() + loadMs;
    await delay(quietMs.before);
    const recoveries: Recovery[] = [];
    do {
      const round = `${seed}/faults/${recoveries.length}`;
      const healedAt = await injectAll(options, system, progress, round);
      progress.phase = 'healed';
      recoveries.push(await probe(system, load, round, healedAt));
      await delay(quietMs.between);
    } while (performance.now() + faultMs + quietMs.after < loadedAt);
    const recovery = slowest(recoveries);
    await loading;
    progress.phase = 'settling';
    await system.heal();
    const unsettled = await settle(system);

    progress.phase = 'checking';
    const judgement = await judge(system, load, unsettled);
    const breaches = [...judgement.breaches, ...unexcused(faults, load.failures)];
    if (recovery.keepsTimeAfterMs === null)
      breaches.push(`no deadline was kept by its job within ${patienceMs / 1000} s after the faults`);
    const lateness = await readLateness(system);
    const isHeldUp = faults.some(({ holdsUpExpiry }) => holdsUpExpiry === true);
    return {
      name,
      orderCount: load.ledger.placedCount,
      strikeCount: recoveries.length,
      failures: Object.fromEntries(load.failures),
      givenUpCount: load.givenUp.length,
      lostCount: judgement.lostCount,
      wrongCount: judgement.wrongCount,
      duplicatedCount: judgement.duplicatedCount,
      breaches,
      lateness,
      told: await countTold(system.database),
      isLate: !isHeldUp && (lateness.max ?? 0) > mostLateMs,
      ...recovery,
      tookMs: Math.round(performance.now() - startedAt),
    };
  } finally {
    progress.stop();
    await system.stop();
  }
}

/** A run that could not be carried through: the others still can. */
export function failedRun(name: string, error: unknown): RunResult {
  return {
    name,
    orderCount: 0,
    strikeCount: 0,
    failures: {},
    givenUpCount: 0,
    lostCount: 0,
    wrongCount: 0,
    duplicatedCount: 0,
    breaches: [`the run failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`],
    lateness: { p50: null, p99: null, max: null, sweptShare: null },
    told: {},
    isLate: false,
    takesOrdersAfterMs: null,
    keepsTimeAfterMs: null,
    tookMs: 0,
  };
}

/** Of several recoveries the slowest. */
function slowest(recoveries: readonly Recovery[]): Recovery {
  return {
    takesOrdersAfterMs: longest(recoveries.map(({ takesOrdersAfterMs }) => takesOrdersAfterMs)),
    keepsTimeAfterMs: longest(recoveries.map(({ keepsTimeAfterMs }) => keepsTimeAfterMs)),
  };
}

/** Null where one of them never came. */
function longest(times: readonly (number | null)[]): number | null {
  return times.reduce((most, ms) => (most === null || ms === null ? null : Math.max(most, ms)));
}

/** Lets every fault happen and heals it; answers with the instant the last one was healed. */
async function injectAll(
  { faults, order }: RunOptions,
  system: System,
  progress: { phase: string },
  seed: string,
): Promise<number> {
  const random = randomOf(seed);
  const happen = async (fault: Fault): Promise<void> => {
    progress.phase = fault.what;
    const heal = await fault.inject(system, random);
    await delay(fault.lastsMs);
    await heal();
  };
  if (order === 'together') {
    await Promise.all(
      faults.map(async (fault, n) => {
        await delay(n === 0 ? 0 : between(random, 0, 3000));
        await happen(fault);
      }),
    );
  } else {
    for (const [n, fault] of faults.entries()) {
      if (n > 0) await delay(quietMs.between);
      await happen(fault);
    }
  }
  return Date.now();
}

/**
 * Failures that a fault does not explain: all must be excused by at least one of the run's faults. An answer that was
 * not waited for, and one to a replay whose twin took longer than 2 s, only tell how fast the machine is. Payment
 * providers fail all the time.
 */
function unexcused(faults: readonly Fault[], failures: ReadonlyMap<string, number>): string[] {
  if (faults.some(({ excuses }) => excuses === undefined)) return [];
  const excused = new Set([
    'no answer',
    notOpened,
    '409 idempotency_in_progress',
    ...faults.flatMap(({ excuses }) => excuses ?? []),
  ]);
  return Array.from(failures).flatMap(([kind, count]) =>
    excused.has(kind) ? [] : [`${count} calls failed without excuse: ${kind}`],
  );
}
