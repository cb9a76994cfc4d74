/** What one round measured, by figure; the unit stands in the figure's name (`orders/s`, `p99 ms`). */
export type Figures = Readonly<Record<string, number>>;

/** Something that is measured again and again, beside others. */
export interface Contender {
  readonly name: string;
  /** Measures once, on a fresh state. */
  measure(): Promise<Figures>;
}

/** A contender's rounds, and over them the median, the least and the greatest of each figure. */
export interface Series {
  readonly name: string;
  readonly rounds: readonly Figures[];
  readonly spread: Readonly<Record<string, Spread>>;
}

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** A table of a report: a line for each contender or case. */
export interface Table {
  readonly title: string;
  readonly lines: readonly Readonly<Record<string, string | number>>[];
  /** What the lines were made of, round by round, for the JSON. */
  readonly series?: readonly Series[];
}

/** A chart of a report. `bars`: a bar for each label; `lines`: a line for each series over the labels. */
export interface Chart {
  /** The file's name without its ending. */
  readonly file: string;
  readonly title: string;
  readonly kind: 'bars' | 'lines';
  /** Of the values. */
  readonly unit: string;
  readonly labels: readonly string[];
  readonly series: readonly { readonly name: string; readonly values: readonly (number | null)[] }[];
  /** For values of very different size. */
  readonly logarithmic?: boolean;
}

/** A figure that was promised, and what was measured. */
export interface Verdict {
  readonly figure: string;
  /** As it is promised, for people: `at least 5`. */
  readonly promised: string;
  readonly measured: number;
  readonly isKept: boolean;
}

/** What a bench found. */
export interface Report {
  readonly tables: readonly Table[];
  readonly charts: readonly Chart[];
  readonly verdicts: readonly Verdict[];
}

/** A bench: `pnpm bench NAME`. */
export interface Bench {
  /** What it measures, in a line. */
  readonly about: string;
  run(options: BenchOptions): Promise<Report>;
}

export interface BenchOptions {
  /** Rounds of each contender that count, after one that warms up. */
  readonly rounds: number;
  /** Hears what goes on, in a line. */
  readonly onProgress: (line: string) => void;
}

/**
 * Measures the contenders in turn, A B A B: whatever else the machine does meanwhile befalls all of them. The first
 * round of each warms up and does not count.
 */
export async function alternate(
  contenders: readonly Contender[],
  { rounds, onProgress }: BenchOptions,
): Promise<readonly Series[]> {
  const measured = new Map(contenders.map(({ name }): [string, Figures[]] => [name, []]));
  for (let round = 0; round <= rounds; round += 1) {
    for (const contender of contenders) {
      const figures = await contender.measure();
      const what = round === 0 ? 'warm-up' : `round ${round} of ${rounds}`;
      onProgress(`${contender.name}, ${what}: ${describe(figures)}`);
      if (round > 0) measured.get(contender.name)?.push(figures);
    }
  }
  return Array.from(measured, ([name, all]) => ({ name, rounds: all, spread: spreadOf(all) }));
}

/** A series's median of a figure as a multiple of the reference's. */
export function ratio(series: Series, reference: Series, figure: string): number {
  return medianOf(series, figure) / medianOf(reference, figure);
}

/** @throws Error where the series has no such figure */
export function medianOf(series: Series, figure: string): number {
  const found = series.spread[figure];
  if (found === undefined) throw new Error(`${series.name} measured no ${figure}`);
  return found.median;
}

/** A table of the medians, with the range in brackets; one line for each series. */
export function tableOf(title: string, all: readonly Series[]): Table {
  return {
    title,
    lines: all.map(({ name, spread }) => ({
      '': name,
      ...Object.fromEntries(Object.entries(spread).map(([figure, one]) => [figure, range(one)])),
    })),
    series: all,
  };
}

/** @param least the least that was promised, as a number */
export function atLeast(figure: string, least: number, measured: number): Verdict {
  return { figure, promised: `at least ${least.toLocaleString('en')}`, measured, isKept: measured >= least };
}

/** @param most the most that was promised, as a number */
export function atMost(figure: string, most: number, measured: number): Verdict {
  return { figure, promised: `at most ${most.toLocaleString('en')}`, measured, isKept: measured <= most };
}

/** A number as people read it: whole from 100 on, else with two or three digits. */
export function readable(value: number): string {
  if (!Number.isFinite(value)) return '–';
  if (Math.abs(value) >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString('en');
  if (Math.abs(value) < 0.1) return value.toPrecision(2);
  return value.toFixed(Math.abs(value) >= 10 ? 1 : 2);
}

function range({ median, min, max }: Spread): string {
  return min === max || !Number.isFinite(median)
    ? readable(median)
    : `${readable(median)} (${readable(min)}–${readable(max)})`;
}

function describe(figures: Figures): string {
  return Object.entries(figures)
    .map(([figure, value]) => `${figure} ${readable(value)}`)
    .join(', ');
}

function spreadOf(rounds: readonly Figures[]): Record<string, Spread> {
  const figures = [...new Set(rounds.flatMap((one) => Object.keys(one)))];
  return Object.fromEntries(
    figures.map((figure) => {
      const values = rounds.flatMap((one) => one[figure] ?? []).toSorted((a, b) => a - b);
      return [figure, { median: middleOf(values), min: values[0] ?? NaN, max: values.at(-1) ?? NaN }];
    }),
  );
}

/** Of sorted values; of an even number, halfway between the two in the middle. */
function middleOf(values: readonly number[]): number {
  const at = (index: number): number => values[index] ?? NaN;
  return (at(Math.floor((values.length - 1) / 2)) + at(Math.ceil((values.length - 1) / 2))) / 2;
}
