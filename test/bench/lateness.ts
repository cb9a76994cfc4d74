import { createRounds } from './expiry-round.ts';
import { lapse, reference, type Expirer } from './expirers.ts';
import {
  alternate,
  atMost,
  readable,
  type Bench,
  type Contender,
  type Figures,
  type Series,
  type Table,
} from './harness.ts';
import { openStage, type Ending, type Plan } from './stage.ts';

/** What is measured: so many orders a second, over so long, all rounds together. */
interface Case {
  readonly title: string;
  readonly perSecond: number;
  readonly spreadMs: number;
}

/** Length of the rounds that warm up, ms. */
const warmUpMs = 2000;

const quantiles = { 'p50 ms': 0.5, 'p99 ms': 0.99, 'p99.9 ms': 0.999, 'max ms': 1 } as const;

/** How late orders are cancelled. */
export const lateness: Bench = {
  about: 'cancelled_at − expire_at at 100/s and 1,000/s, and of 10,000 in one second, against other timers',
  async run(options) {
    const { rounds, onProgress } = options;
    const windowMs = Math.round(30_000 / rounds);
    const cases: readonly Case[] = [
      { title: '100/s', perSecond: 100, spreadMs: windowMs },
      { title: '1,000/s', perSecond: 1000, spreadMs: windowMs },
      { title: '10,000 in one second', perSecond: 10_000, spreadMs: 1000 },
    ];
    const stage = await openStage(onProgress);
    try {
      const play = createRounds(stage);
      const expirers: readonly Expirer[] = [
        lapse({ workerCount: 1, partitionCount: 1 }),
        reference('graphile-worker (polls every 20 ms)', 'graphile'),
        reference('pg-boss (polls every 500 ms, its least)', 'boss'),
        reference('poller (looks every second)', 'poller'),
      ];
      const found: Found[] = [];
      for (const one of cases) {
        const samples = new Map<string, Samples>();
        const contenders = expirers.map((expirer): Contender => {
          const own = new Samples();
          samples.set(expirer.name, own);
          return {
            name: expirer.name,
            async measure() {
              const { ending } = await play(
                expirer,
                planOf(one, own.isWarm ? one.spreadMs : Math.min(warmUpMs, one.spreadMs)),
              );
              return own.add(ending);
            },
          };
        });
        onProgress(one.title);
        found.push({ case: one, series: await alternate(contenders, options), samples });
      }
      return {
        tables: found.map((one) => tableOf(one, rounds)),
        charts: [
          {
            file: 'lateness',
            title: 'How late orders are cancelled, 99 of 100 at most',
            kind: 'bars',
            unit: 'ms',
            labels: expirers.map(({ name }) => name),
            series: found.map(({ case: { title }, samples }) => ({
              name: title,
              values: expirers.map(({ name }) => samples.get(name)?.late['p99 ms'] ?? null),
            })),
            logarithmic: true,
          },
        ],
        verdicts: [
          atMost('lateness p99 at 100/s, ms', 15, lapseP99(found, '100/s')),
          atMost('lateness p99 at 1,000/s, ms', 40, lapseP99(found, '1,000/s')),
        ],
      };
    } finally {
      await stage.stop();
    }
  },
};

interface Found {
  readonly case: Case;
  readonly series: readonly Series[];
  readonly samples: ReadonlyMap<string, Samples>;
}

function planOf({ perSecond }: Case, spreadMs: number): Omit<Plan, 'partitionCount'> {
  return { orderCount: Math.round((perSecond * spreadMs) / 1000), spreadMs };
}

/** Every order of all rounds of one contender but the first, which warms up. */
class Samples {
  #isWarm = false;
  readonly #late: number[] = [];
  readonly #visible: number[] = [];

  get isWarm(): boolean {
    return this.#isWarm;
  }

  /** @returns the figures of this round alone */
  add({ latenessMs, visibleMs }: Ending): Figures {
    if (this.#isWarm) {
      this.#late.push(...latenessMs);
      this.#visible.push(...visibleMs);
    }
    this.#isWarm = true;
    return figuresOf(latenessMs);
  }

  get late(): Figures {
    return figuresOf(this.#late.toSorted((a, b) => a - b));
  }

  get visible(): Figures {
    return figuresOf(this.#visible.toSorted((a, b) => a - b));
  }
}

function figuresOf(sorted: readonly number[]): Figures {
  return Object.fromEntries(
    Object.entries(quantiles).map(([name, share]) => [
      name,
      sorted[Math.ceil(sorted.length * share) - 1] ?? NaN,
    ]),
  );
}

function tableOf({ case: { title, perSecond, spreadMs }, series, samples }: Found, rounds: number): Table {
  const many = `${rounds} × ${readable((perSecond * spreadMs) / 1000)} orders in ${readable(spreadMs / 1000)} s`;
  return {
    title: `${title}: cancelled_at − expire_at over all rounds (${many}); "visible" counts to the commit`,
    lines: series.map(({ name, spread }) => {
      const own = samples.get(name);
      const p99 = spread['p99 ms'];
      return {
        '': name,
        ...Object.fromEntries(
          Object.entries(own?.late ?? {}).map(([figure, value]) => [figure, readable(value)]),
        ),
        'p99 of a round': `${readable(p99?.min ?? NaN)}–${readable(p99?.max ?? NaN)}`,
        'visible p99 ms': readable(own?.visible['p99 ms'] ?? NaN),
        'visible max ms': readable(own?.visible['max ms'] ?? NaN),
      };
    }),
  };
}

function lapseP99(found: readonly Found[], title: string): number {
  const [samples] = found.find((one) => one.case.title === title)?.samples.values() ?? [];
  return samples?.late['p99 ms'] ?? NaN;
}
