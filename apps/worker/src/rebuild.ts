import type { Deadlines } from '@lapse/deadlines';
import type { Orders, Rebuild } from '@lapse/orders';
import { Counter, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How often Redis is asked whether it still has what was armed, ms. */
const lookEveryMs = 1000;

/** Deadlines armed in one step: about 80 ms of Redis, in pipelines of 500 at most, between which others come. */
const pageSize = 2000;

/** How long a partition that takes writes, but did not take all its jobs, is left alone, ms: its node may be all but full. */
const refusedPauseMs = 10_000;

/**
 * Arms every pending deadline again when Redis lost them: after a flush, a restart without its file, on a new server.
 * Every worker looks and every worker tries; one at a time does a step, and where one dies the next goes on from there.
 *
 * In a cluster a node may be away meanwhile, or answer and take no writes: it is full, read-only, or without its
 * replicas. Its partitions are left out and owed: they get a rebuild of their own when they take writes. The debt is kept
 * in memory; where it is lost with the process, the comparison of rows and jobs finds it.
 *
 * @param options.partitions the partitions whose deadlines must be armed
 */
export function rebuild(options: {
  orders: Orders;
  deadlines: Deadlines;
  partitions: () => Promise<readonly number[]>;
  log: Log;
  metrics: Metrics;
}): Service {
  const { orders, deadlines, partitions, log, metrics } = options;
  const rebuilt = new Counter({
    name: 'lapse_rebuild_armed_total',
    help: 'Deadlines that were armed again from the rows by this worker',
    registers: [metrics],
  });
  /** The partitions that are owed a rebuild, and when each may be asked for at the earliest. */
  const owed = new Map<number, number>();
  const owe = (numbers: Iterable<number>, pauseMs: number): void => {
    const askAt = performance.now() + pauseMs;
    for (const partition of numbers) owed.set(partition, Math.max(askAt, owed.get(partition) ?? 0));
  };
  const owedPartitions = (): { owedPartitions?: readonly number[] } =>
    owed.size === 0 ? {} : { owedPartitions: [...owed.keys()] };
  /** The rebuild whose beginning was told, until it made progress: a step that fails is begun again each second. */
  let toldId: string | undefined;

  /** The epochs of those of a rebuild's partitions that take writes. The others are owed from now on. */
  const readEpochs = async (subject: Rebuild): Promise<readonly (readonly [number, string | null])[]> => {
    const all = await partitions();
    const wanted = new Set(subject.partitions ?? all);
    // Of the others, too: only where none answers at all is Redis away, and the step is tried again.
    const epochs = await deadlines.epochs([...wanted.union(new Set(all))], { writableOnly: true });
    owe(wanted.difference(epochs), 0);
    return [...epochs].filter(([partition]) => wanted.has(partition));
  };

  const ports = {
    async isWhole(subject: Rebuild) {
      const epochs = await readEpochs(subject);
      return epochs.every(([partition, epoch]) => epoch === subject.id || owed.has(partition));
    },
    async begin(subject: Rebuild) {
      const answering = (await readEpochs(subject)).map(([partition]) => partition);
      for (const partition of answering) owed.delete(partition);
      await deadlines.markEpoch(answering, subject.id);
      const { id: rebuildId, reason } = subject;
      if (toldId !== rebuildId)
        log.warn({ rebuildId, reason, ...owedPartitions() }, 'arming every pending deadline again');
      toldId = rebuildId;
    },
    async arm(page: Parameters<Deadlines['armMany']>[0]) {
      const due = page.filter(({ partition }) => !owed.has(partition));
      const { armed, failed, failedPartitions } = await deadlines.armMany(due);
      rebuilt.inc(armed);
      // Where all fail, the fault is hardly theirs, and the page is tried again. Some must not keep the others waiting.
      if (due.length > 0 && due.every(({ partition }) => failedPartitions.has(partition)))
        throw new Error(`${failed} of ${due.length} deadlines were not armed`);
      owe(failedPartitions, refusedPauseMs);
      toldId = undefined;
      return armed;
    },
  };

  const requestWhereLost = async (): Promise<void> => {
    const epochs = await deadlines.epochs(await partitions(), { writableOnly: true });
    const now = performance.now();
    const lost = [...epochs]
      .filter(([partition, epoch]) => now >= (owed.get(partition) ?? (epoch === null ? 0 : Infinity)))
      .map(([partition]) => partition);
    if (lost.length === 0) return;
    const pending = new Set(await orders.pendingPartitions());
    const asked = lost.filter((partition) => pending.has(partition));
    const empty = lost.filter((partition) => !pending.has(partition));
    // A partition that is new, or has no pending order, lost nothing. One that comes now is armed after the loss.
    if (empty.length > 0) await deadlines.markEpoch(empty, 'empty');
    for (const partition of empty) owed.delete(partition);
    if (asked.length === 0) return;
    const isOwed = asked.every((partition) => owed.has(partition));
    const request = await orders.requestRebuild({
      reason: isOwed ? 'a node of redis was away' : 'redis lost its jobs',
      actor: 'worker',
      partitions: asked,
    });
    if (request !== undefined) for (const partition of asked) owed.delete(partition);
  };

  return periodic({
    name: 'rebuild',
    everyMs: lookEveryMs,
    log,
    async task(stopped) {
      if (!(await deadlines.reachable())) return;
      await requestWhereLost();
      while (!stopped.aborted) {
        const step = await orders.rebuildStep(pageSize, ports);
        if (step.state === 'done') {
          const { id, armedCount, startedAt } = step.rebuild;
          const tookMs = Date.now() - startedAt.getTime();
          log.info(
            { rebuildId: id, armedCount, tookMs, ...owedPartitions() },
            owed.size === 0
              ? 'every pending deadline is armed again'
              : 'pending deadlines are armed again, but for owed partitions',
          );
        }
        if (step.state !== 'armed') return;
      }
    },
  });
}
