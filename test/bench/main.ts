import { writeFile } from 'node:fs/promises';
import { parseArgs, styleText } from 'node:util';

import { startServers } from '@lapse/devstack';
import { OperatorError, runMain } from '@lapse/runtime';

import { surroundings } from '../surroundings.ts';
import { apis } from './apis.ts';
import { checkout } from './checkout.ts';
import { drain } from './drain.ts';
import { fleet } from './fleet.ts';
import type { Bench, Report, Verdict } from './harness.ts';
import { hotSku } from './hot-sku.ts';
import { lateness } from './lateness.ts';
import { pay } from './pay.ts';
import { rebuild } from './rebuild.ts';
import { redisAway } from './redis-away.ts';
import { printReport, printSummary, printSurroundings } from './report.ts';
import { scale } from './scale.ts';

/** Every bench by its name; without a name they run in this order. */
const benches: Readonly<Record<string, Bench>> = {
  checkout,
  pay,
  'hot-sku': hotSku,
  drain,
  lateness,
  fleet,
  apis,
  scale: scale([10_000, 100_000, 1_000_000]),
  rebuild,
  'redis-away': redisAway,
};

const usage = `pnpm bench [name…] [--rounds N] [--json FILE] [--charts] [--strict] [--list]

  name…        which. Default: all, one after the other
  --rounds N   rounds of each contender that count, after one that warms up. Default 3
  --json FILE  writes everything that was measured too
  --charts     draws the charts, as docs/images/performance-….svg
  --strict     exits with 1 where a promise is not kept
  --list       names the benches

Every figure stands beside a reference that was measured in the same run. Close what else runs on the machine.`;

/** What became of one bench. */
type Outcome = { readonly name: string; readonly tookMs: number } & (
  | { readonly report: Report }
  | { readonly error: string }
);

await runMain(async () => {
  const { values, positionals } = parseWishes();
  if (values.help) return console.log(usage);
  if (values.list) {
    for (const [name, { about }] of Object.entries(benches)) console.log(`${name.padEnd(14)}${about}`);
    return;
  }
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) {
    throw new OperatorError(`--rounds must be a whole number of at least 1, not ${values.rounds}.`);
  }
  const chosen = chooseBenches(positionals);

  const startedAt = new Date();
  const facts = await readSurroundings();
  printSurroundings(facts);
  const outcomes: Outcome[] = [];
  for (const [name, bench] of chosen) {
    const outcome = await runBench(name, bench, rounds);
    outcomes.push(outcome);
    if (values.charts && 'report' in outcome) await drawCharts(outcome.report);
  }
  const verdicts = outcomes.flatMap((outcome) =>
    'report' in outcome
      ? outcome.report.verdicts.map((verdict) => ({ bench: outcome.name, ...verdict }))
      : [],
  );
  printSummary(verdicts);
  if (values.json !== undefined) {
    const all = { startedAt, rounds, ...facts, benches: outcomes };
    await writeFile(values.json, `${JSON.stringify(all, null, 2)}\n`);
  }
  const broke = outcomes.some((outcome) => 'error' in outcome);
  process.exitCode = broke || (values.strict && verdicts.some(isShort)) ? 1 : 0;
});

function parseWishes() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        rounds: { type: 'string', default: '3' },
        json: { type: 'string' },
        charts: { type: 'boolean', default: false },
        strict: { type: 'boolean', default: false },
        list: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new OperatorError(`${message}\n\n${usage}`, { cause: error });
  }
}

/** The named benches, all where none is named. */
function chooseBenches(names: readonly string[]): readonly [string, Bench][] {
  if (names.length === 0) return Object.entries(benches);
  return names.map((name) => {
    const bench = Object.hasOwn(benches, name) ? benches[name] : undefined;
    if (bench !== undefined) return [name, bench];
    throw new OperatorError(`There is no bench ${name}. There are: ${Object.keys(benches).join(', ')}.`);
  });
}

/** Each bench starts servers of its own; these only tell their versions. */
async function readSurroundings() {
  const servers = await startServers({ onNotice: console.log });
  try {
    return await surroundings(servers);
  } finally {
    await servers.stop();
  }
}

/** Runs a bench and prints what it found. One that breaks does not keep the others from running. */
async function runBench(name: string, bench: Bench, rounds: number): Promise<Outcome> {
  console.log(`\n${styleText('bold', name)}: ${bench.about}`);
  const startedAt = performance.now();
  try {
    const report = await bench.run({ rounds, onProgress: printProgress });
    const tookMs = Math.round(performance.now() - startedAt);
    printReport(report);
    console.log(styleText('dim', `\n  ${name} took ${Math.round(tookMs / 1000)} s`));
    return { name, tookMs, report };
  } catch (error) {
    console.error(styleText('red', `${name} broke:`), error);
    return { name, tookMs: Math.round(performance.now() - startedAt), error: String(error) };
  }
}

function printProgress(line: string): void {
  console.log(styleText('dim', `  ${line}`));
}

async function drawCharts({ charts }: Report): Promise<void> {
  // Only here: whoever wants no charts need not wait for the library.
  const { writeChart } = await import('./chart.ts');
  for (const chart of charts) console.log(`  drew ${await writeChart(chart)}`);
}

function isShort({ isKept }: Verdict): boolean {
  return !isKept;
}
