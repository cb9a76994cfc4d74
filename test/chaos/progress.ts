import type { Load } from './load.ts';
import { countPending } from './measure.ts';
import type { System } from './system.ts';

/** How far a run is. */
export interface Progress {
  readonly name: string;
  /** What goes on: `load`, the faults that are there, `settling`, … */
  readonly phase: string;
  readonly placedCount: number;
  readonly pendingCount: number;
  readonly failureCount: number;
  readonly wantedCount: number;
}

/** Tells how far a run is, four times a second. What goes on is said by setting `phase`. */
export function watch(
  system: System,
  load: Load,
  {
    name,
    wantedCount,
    onProgress,
  }: Pick<Progress, 'name' | 'wantedCount'> & { readonly onProgress: (progress: Progress) => void },
): { phase: string; stop(): void } {
  let pendingCount = 0;
  const watched = {
    phase: 'start',
    stop: () => clearInterval(timer),
  };
  const timer = setInterval(() => {
    // While PostgreSQL is away the last count stands.
    countPending(system).then(
      (count) => (pendingCount = count),
      () => undefined,
    );
    const failureCount = load.failures.values().reduce((sum, count) => sum + count, 0);
    const { placedCount } = load.ledger;
    onProgress({ name, phase: watched.phase, placedCount, pendingCount, failureCount, wantedCount });
  }, 250);
  return watched;
}
