import { createRounds, type PlayRound } from './expiry-round.ts';
import { lapse, reference, type Expirer } from './expirers.ts';
import { alternate, atLeast, ratio, tableOf, type Bench, type Contender, type Figures } from './harness.ts';
import { openStage } from './stage.ts';

const orderCount = 50_000;

/** One transaction for each order takes half a minute for 50,000; a smaller backlog is, if anything, drained faster. */
const slowOrderCount = 20_000;

const rate = 'orders/s';

/** How fast orders that are due at the same instant are cancelled. */
export const drain: Bench = {
  about:
    '50,000 orders due at once: until the last is cancelled, against other queues and the database alone',
  async run(options) {
    const stage = await openStage(options.onProgress);
    try {
      const play = createRounds(stage);
      const contender = (expirer: Expirer, count = orderCount): Contender => ({
        name: count === orderCount ? expirer.name : `${expirer.name} (${count.toLocaleString('en')})`,
        measure: () => measure(play, expirer, count),
      });
      const all = await alternate(
        [
          contender(lapse({ workerCount: 1, partitionCount: 1 })),
          contender(lapse({ workerCount: 2, partitionCount: 4 })),
          contender(lapse({ workerCount: 1, partitionCount: 1, isArmed: false })),
          contender(reference('SQL alone, 5,000 a statement', 'sql-alone')),
          contender(reference('BullMQ, jobs that do nothing', 'noop')),
          contender(reference('BullMQ, a transaction for each job', 'one-by-one'), slowOrderCount),
          contender(reference('graphile-worker', 'graphile'), slowOrderCount),
          contender(reference('pg-boss', 'boss'), slowOrderCount),
        ],
        options,
      );
      const [one, two, swept, sql, noop, oneByOne, graphile, boss] = all;
      if (!one || !two || !swept || !sql || !noop || !oneByOne || !graphile || !boss) {
        throw new Error('a contender was not measured');
      }
      return {
        tables: [
          tableOf(
            '50,000 orders due at the same instant (those with a transaction for each order: 20,000), counted from it to ' +
              'the commit of the last cancellation',
            all,
          ),
        ],
        charts: [
          {
            file: 'drain',
            title: 'Orders due at the same instant: cancelled a second',
            kind: 'bars',
            unit: rate,
            labels: all.map(({ name }) => name),
            series: [{ name: rate, values: all.map(({ spread }) => spread[rate]?.median ?? null) }],
          },
        ],
        verdicts: [
          atLeast('drain against a transaction for each job, times', 10, ratio(one, oneByOne, rate)),
          atLeast('drain against graphile-worker, times', 10, ratio(one, graphile, rate)),
          atLeast('drain against pg-boss, times', 10, ratio(one, boss, rate)),
          atLeast('drain against SQL alone, times', 0.5, ratio(one, sql, rate)),
          atLeast(
            'drain without jobs (by the sweeper) against SQL alone, times',
            0.5,
            ratio(swept, sql, rate),
          ),
        ],
      };
    } finally {
      await stage.stop();
    }
  },
};

async function measure(play: PlayRound, expirer: Expirer, count: number): Promise<Figures> {
  const { ending, jobsGoneMs } = await play(expirer, { orderCount: count, spreadMs: 0 });
  // Of jobs that do nothing there is only the end of the last.
  const lastMs = expirer.isIdle === true ? (jobsGoneMs ?? NaN) : ending.lastMs;
  return {
    [rate]: count / (lastMs / 1000),
    'last after ms': lastMs,
    ...(expirer.isIdle === true ? {} : { 'first after ms': ending.firstMs }),
    ...(jobsGoneMs === null ? {} : { 'last job after ms': jobsGoneMs }),
  };
}
