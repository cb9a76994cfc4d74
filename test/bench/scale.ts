import {
  alternate,
  atLeast,
  atMost,
  medianOf,
  ratio,
  readable,
  tableOf,
  type Bench,
  type BenchOptions,
  type Chart,
  type Figures,
  type Report,
  type Series,
  type Table,
  type Verdict,
} from './harness.ts';
import { connections, latecomers, rebuildSet, shoppers } from './scale-loads.ts';
import { withPendingSets, type PendingSet } from './scale-set.ts';
import { expectWhole } from './stage.ts';

const duePerSecond = 100;

/** What was measured. */
interface Found {
  readonly sets: readonly PendingSet[];
  readonly shopping: readonly Series[];
  readonly lateness: readonly Series[];
  /** Of the largest set. */
  readonly rebuild: Figures;
}

/**
 * Whether it stays the same as pending deadlines pile up.
 *
 * @param sizes numbers of pending deadlines, ascending; the last is compared with the first
 * @param seconds.load how long each load of checkouts lasts, s
 * @param seconds.due how long orders fall due in each round of lateness, s
 */
export function scale(sizes: readonly number[], seconds = { load: 5, due: 10 }): Bench {
  return {
    about: `checkout, pay, lateness and bytes with ${sizes.map(readable).join(', ')} deadlines pending; rebuild of the last`,
    run: (options) =>
      withPendingSets(sizes, options.onProgress, async (sets) =>
        reportOf(await measureAll(sets, seconds, options)),
      ),
  };
}

async function measureAll(
  sets: readonly PendingSet[],
  seconds: { readonly load: number; readonly due: number },
  options: BenchOptions,
): Promise<Found> {
  const shopping = await alternate(
    sets.map((set) => shoppers(set, seconds.load)),
    options,
  );
  const lateness = await alternate(
    sets.map((set) => latecomers(set, { perSecond: duePerSecond, seconds: seconds.due })),
    options,
  );
  const rebuild = await rebuildSet(endsOf(sets).last);
  for (const set of sets) {
    await expectWhole(set, 0);
    options.onProgress(`${set.label}: every invariant holds`);
  }
  return { sets, shopping, lateness, rebuild };
}

/** The first and the last, which are compared. */
function endsOf<Value>(all: readonly Value[]): { first: Value; last: Value } {
  const [first, last] = [all[0], all.at(-1)];
  if (first === undefined || last === undefined) throw new Error('nothing was measured');
  return { first, last };
}

function reportOf(found: Found): Report {
  const { sets, shopping, lateness, rebuild } = found;
  const { last } = endsOf(sets);
  return {
    tables: [
      footprints(sets),
      tableOf(
        `Over HTTP, ${connections} connections, by pending deadlines: checkouts, then their payments`,
        shopping,
      ),
      tableOf(`cancelled_at − expire_at at ${duePerSecond}/s among pending deadlines, one worker`, lateness),
      {
        title: 'Redis is flushed, a worker arms every deadline again',
        lines: [{ '': last.label, ...rebuild }],
      },
    ],
    charts: charts(found),
    verdicts: verdicts(found),
  };
}

function footprints(sets: readonly PendingSet[]): Table {
  return {
    title: 'Bytes for each pending deadline; tables with their indexes',
    lines: sets.map(({ label, footprint: { redisBytes, memberBytes, tableBytes, indexBytes } }) => ({
      '': label,
      Redis: redisBytes,
      'a bare ZADD member': memberBytes,
      ...tableBytes,
      'indexes of all three': indexBytes,
    })),
  };
}

function charts({ sets, shopping, lateness }: Found): Chart[] {
  const labels = sets.map(({ label }) => label);
  return [
    {
      file: 'scale',
      title: 'Throughput by pending deadlines',
      kind: 'lines',
      unit: '1/s',
      labels,
      series: [
        line('Lapse, checkouts', shopping, 'checkouts/s'),
        line('Lapse, payments', shopping, 'payments/s'),
      ],
    },
    {
      file: 'scale-lateness',
      title: `How late orders are cancelled, by pending deadlines, ${duePerSecond}/s`,
      kind: 'lines',
      unit: 'ms',
      labels,
      series: [line('Lapse, p50', lateness, 'p50 ms'), line('Lapse, p99', lateness, 'p99 ms')],
    },
  ];
}

function line(name: string, all: readonly Series[], figure: string): Chart['series'][number] {
  return { name, values: all.map((series) => medianOf(series, figure)) };
}

function verdicts({ sets, shopping, rebuild }: Found): Verdict[] {
  const { first, last } = endsOf(sets);
  const measured = endsOf(shopping);
  const flat = (what: string, figure: string): Verdict =>
    atLeast(
      `${what} at ${last.label} pending, times those at ${first.label}`,
      0.9,
      ratio(measured.last, measured.first, figure),
    );
  return [
    flat('checkouts/s', 'checkouts/s'),
    flat('payments/s', 'payments/s'),
    atMost(`Redis bytes per pending deadline, ${last.label}`, 460, last.footprint.redisBytes),
    atLeast(`rebuild of ${last.label}, deadlines/s`, 15_000, rebuild['deadlines/s'] ?? NaN),
  ];
}
