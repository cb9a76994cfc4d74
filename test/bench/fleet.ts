import { cpus } from 'node:os';

import { createRounds, type PlayRound } from './expiry-round.ts';
import { lapse } from './expirers.ts';
import { alternate, medianOf, readable, tableOf, type Bench, type Figures, type Series } from './harness.ts';
import { processorSeconds } from './processor-time.ts';
import { openStage, type Stage } from './stage.ts';

const orderCount = 20_000;
const workerCounts = [1, 2, 4] as const;
const partitionCounts = [1, 4, 16] as const;
const coreCount = cpus().length;

/** Of one core: from here on something that can use no second one is at its end. */
const fullCore = 0.85;

/** How expiry grows with workers and partitions, and what is at its end first. */
export const fleet: Bench = {
  about: 'expiry with 1, 2, 4 workers and 1, 4, 16 partitions, and what saturates first',
  async run(options) {
    const stage = await openStage(options.onProgress);
    try {
      const play = createRounds(stage);
      const sizes = workerCounts.flatMap((workerCount) =>
        partitionCounts.map((partitionCount) => ({ workerCount, partitionCount })),
      );
      const all = await alternate(
        sizes.map((size) => ({
          name: `${size.workerCount} × ${size.partitionCount}`,
          measure: () => measure(stage, play, size),
        })),
        options,
      );
      const table = tableOf(
        `Workers × partitions: ${readable(orderCount)} orders due at once; processor time from the instant they are due ` +
          `to the last cancellation, on ${coreCount} cores that everything shares`,
        all,
      );
      return {
        tables: [
          {
            ...table,
            lines: table.lines.map((line, n) =>
              Object.assign({ ...line }, { 'at its end': saturated(all[n]) }),
            ),
          },
        ],
        charts: [
          {
            file: 'fleet',
            title: 'Expiry by workers and partitions',
            kind: 'lines',
            unit: 'orders/s',
            labels: workerCounts.map((count) => (count === 1 ? '1 worker' : `${count} workers`)),
            series: partitionCounts.map((partitionCount) => ({
              name: partitionCount === 1 ? '1 partition' : `${partitionCount} partitions`,
              values: workerCounts.map(
                (workerCount) =>
                  all.find(({ name }) => name === `${workerCount} × ${partitionCount}`)?.spread['orders/s']
                    ?.median ?? null,
              ),
            })),
          },
        ],
        verdicts: [],
      };
    } finally {
      await stage.stop();
    }
  },
};

async function measure(
  stage: Stage,
  play: PlayRound,
  size: { readonly workerCount: number; readonly partitionCount: number },
): Promise<Figures> {
  let usage: Usage | undefined;
  const { ending, jobsGoneMs } = await play(lapse(size), { orderCount, spreadMs: 0 }, (pids) => {
    const read = meter(stage, pids);
    return () => (usage = read());
  });
  if (usage === undefined) throw new Error('the round did not end');
  const { redis, postgresql, workers, seconds } = usage;
  const total = redis + postgresql + workers.reduce((sum, one) => sum + one, 0);
  return {
    'orders/s': orderCount / (ending.lastMs / 1000),
    'last job after ms': jobsGoneMs ?? NaN,
    'Redis CPU s': redis,
    'PostgreSQL CPU s': postgresql,
    'workers CPU s': workers.reduce((sum, one) => sum + one, 0),
    'Redis, of a core': redis / seconds,
    'busiest worker, of a core': Math.max(...workers) / seconds,
    'all, of the machine': total / (seconds * coreCount),
  };
}

/** Processor time, s, and how long it was measured. */
interface Usage {
  readonly redis: number;
  readonly postgresql: number;
  readonly workers: readonly number[];
  readonly seconds: number;
}

/** Begins to count. @returns what was used since */
function meter({ pids }: Stage, workers: readonly number[]): () => Usage {
  const look = (): Usage => ({
    redis: processorSeconds(pids.redis),
    postgresql: processorSeconds(pids.postgresql),
    workers: workers.map(processorSeconds),
    seconds: performance.now() / 1000,
  });
  const before = look();
  return () => {
    const now = look();
    return {
      redis: now.redis - before.redis,
      postgresql: now.postgresql - before.postgresql,
      workers: now.workers.map((seconds, n) => seconds - (before.workers[n] ?? 0)),
      seconds: now.seconds - before.seconds,
    };
  };
}

/** What the figures say is at its end. Redis and a worker's JavaScript have one thread each. */
function saturated(series: Series | undefined): string {
  if (series === undefined) return '';
  const shareOf = (figure: string): number => medianOf(series, figure);
  const secondsOf = ['PostgreSQL', 'Redis', 'workers'].map((who) => ({
    who,
    seconds: medianOf(series, `${who} CPU s`),
  }));
  const [most] = secondsOf.toSorted((a, b) => b.seconds - a.seconds);
  if (shareOf('all, of the machine') >= fullCore) return `the machine's cores, most of it ${most?.who ?? ''}`;
  if (shareOf('busiest worker, of a core') >= fullCore) return "a worker's thread";
  if (shareOf('Redis, of a core') >= fullCore) return "Redis's thread";
  return `no processor: waiting, most work in ${most?.who ?? ''}`;
}
