import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';

import { OperatorError, runMain } from '@lapse/runtime';

import { surroundings } from '../surroundings.ts';
import { drawCombination, faultNamed, faults, type Fault } from './faults.ts';
import { moneyLines, runMoney } from './money.ts';
import { randomOf } from './random.ts';
import { printBreaches, printTable, progressPrinter } from './report.ts';
import { failedRun, runChaos, type RunResult } from './run.ts';
import { soak } from './soak.ts';
import { startServers } from './servers.ts';

const usage = `pnpm chaos [fault…] [--orders N] [--seed S] [--json FILE] [--money] [--soak MINUTES] [--list]

  fault…          which, each in a run of its own; a+b lets both happen together. Default: all, then combinations
  --orders N      orders to place in each run; one in seven finds something sold out. Default 24000, with --money 10000
  --seed S        decides every plan and every draw. Default: a new one
  --json FILE     writes the results too
  --money         no faults of ours: customers pay at payment providers that fail all the time; counts all money
  --soak MINUTES  no faults: steady load, and a watch on memory
  --list          names the faults`;

/** Orders of a money run placed in a second: two cores also run the servers, the providers and the customers. */
const moneyPerSecond = 60;

/** How many combinations are drawn where no fault is named. */
const combinationCount = 4;

await runMain(async () => {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      orders: { type: 'string' },
      seed: { type: 'string', default: String(Math.floor(Math.random() * 1_000_000)) },
      json: { type: 'string' },
      money: { type: 'boolean', default: false },
      soak: { type: 'string' },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return console.log(usage);
  if (values.list) {
    for (const [name, { what }] of Object.entries(faults)) console.log(`${name.padEnd(20)}${what}`);
    return;
  }
  const seed = positive('--seed', values.seed, 0);
  const orderCount = positive('--orders', values.orders ?? (values.money ? '10000' : '24000'));
  const json = values.json === undefined ? undefined : (report: object) => writeJson(values.json, report);
  if (values.soak !== undefined) {
    const minutes = positive('--soak', values.soak, 0.1);
    process.exitCode = (await soak({ minutes, seed, report: json })) ? 0 : 1;
    return;
  }
  if (values.money) {
    process.exitCode = (await runMoneyAlone({ orderCount, seed, json })) ? 0 : 1;
    return;
  }
  process.exitCode = (await runAll(chosen(positionals, seed), { orderCount, seed, json })) ? 0 : 1;
});

interface Run {
  readonly name: string;
  readonly faults: readonly Fault[];
}

/** The runs that are wished for; all single faults and some combinations where none is named. */
function chosen(names: readonly string[], seed: number): Run[] {
  const random = randomOf(`${seed}/combinations`);
  const drawn = Array.from({ length: combinationCount }, () => drawCombination(random));
  return (names.length === 0 ? [...Object.keys(faults), ...drawn] : names).map((name) => ({
    name,
    faults: name.split('+').map(faultNamed),
  }));
}

/** Runs one after the other on the same servers; answers whether every promise was kept. */
async function runAll(
  runs: readonly Run[],
  { orderCount, seed, json }: { orderCount: number; seed: number; json?: Report | undefined },
): Promise<boolean> {
  console.log(`${runs.length} runs of ${orderCount} orders, seed ${seed}`);
  const servers = await startServers(console.log);
  const results: RunResult[] = [];
  const progress = progressPrinter();
  const startedAt = new Date();
  try {
    for (const { name, faults: wanted } of runs) {
      const result = await runChaos({
        name,
        faults: wanted,
        order: 'together',
        orderCount,
        seed,
        servers,
        onProgress: (now) => progress.show(now),
      }).catch((error: unknown) => failedRun(name, error));
      results.push(result);
      progress.clear();
      const { breaches, tookMs } = result;
      const verdict = breaches.length === 0 ? 'ok' : `${breaches.length} breaches`;
      console.log(
        `${name}: ${verdict}, ${result.orderCount} orders, ${result.strikeCount} times, ${Math.round(tookMs / 1000)} s`,
      );
      printBreaches(result, seed, orderCount);
    }
    console.log('');
    printTable(results);
    const isKept = results.every(({ breaches }) => breaches.length === 0);
    await json?.({
      startedAt,
      seed,
      ordersPerRun: orderCount,
      isKept,
      ...(await surroundings({ databaseUrl: servers.postgres.url, redisUrl: servers.redis.url })),
      runs: results,
    });
    return isKept;
  } finally {
    await servers.stop();
  }
}

/** The money run; answers whether every promise was kept. */
async function runMoneyAlone({
  orderCount,
  seed,
  json,
}: {
  orderCount: number;
  seed: number;
  json?: Report | undefined;
}): Promise<boolean> {
  console.log(`${orderCount} orders paid at providers that fail one call in five, seed ${seed}`);
  const servers = await startServers(console.log);
  const progress = progressPrinter();
  try {
    const result = await runMoney({
      orderCount,
      perSecond: moneyPerSecond,
      seed,
      servers,
      onProgress: (now) => progress.show(now),
    });
    progress.clear();
    for (const line of moneyLines(result)) console.log(line);
    printBreaches({ name: '--money', breaches: result.breaches }, seed, orderCount);
    const isKept = result.breaches.length === 0;
    console.log(`${isKept ? 'ok' : 'BROKEN'}, ${Math.round(result.tookMs / 1000)} s`);
    await json?.({
      seed,
      isKept,
      ...(await surroundings({ databaseUrl: servers.postgres.url, redisUrl: servers.redis.url })),
      ...result,
    });
    return isKept;
  } finally {
    await servers.stop();
  }
}

type Report = (report: object) => Promise<void>;

async function writeJson(file: string | undefined, report: object): Promise<void> {
  if (file !== undefined) await writeFile(file, `${JSON.stringify(report, null, 2)}\n`);
}

function positive(option: string, text: string, least = 1): number {
  const value = Number(text);
  if (Number.isFinite(value) && value >= least) return value;
  throw new OperatorError(`${option} must be a number of at least ${least}, not ${text}.`);
}
