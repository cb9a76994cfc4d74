import { styleText } from 'node:util';

import type { Progress } from './progress.ts';
import type { RunResult } from './run.ts';

/** Prints progress: on a terminal one line that changes, elsewhere a line every few seconds. */
export function progressPrinter(): { show(progress: Progress): void; clear(): void } {
  const { isTTY, columns } = process.stdout;
  let nextAt = 0;
  return {
    show({ name, phase, placedCount, pendingCount, failureCount, wantedCount }) {
      if (!isTTY && performance.now() < nextAt) return;
      nextAt = performance.now() + 5000;
      const counts = `${placedCount}/${wantedCount} placed, ${placedCount - pendingCount} settled, ${pendingCount} pending, ${failureCount} failed calls`;
      const line = `${name}: ${counts} · ${phase}`;
      if (isTTY) process.stdout.write(`\r\u001B[K${line.slice(0, columns - 1)}`);
      else console.log(line);
    },
    clear() {
      if (isTTY) process.stdout.write('\r\u001B[K');
    },
  };
}

const heads = [
  'fault',
  'times',
  'orders',
  'lost',
  'wrong',
  'doubled',
  'late p50',
  'p99',
  'max ms',
  'swept',
  '201 after',
  'in time after',
  'failed calls',
  'result',
];

/** A line for each run, under heads, aligned. */
export function printTable(results: readonly RunResult[]): void {
  const lines = results.map((result) => {
    const { lateness, failures } = result;
    const failed = Object.entries(failures).map(([kind, count]) => `${count} × ${kind}`);
    return [
      result.name,
      String(result.strikeCount),
      String(result.orderCount),
      String(result.lostCount),
      String(result.wrongCount),
      String(result.duplicatedCount),
      number(lateness.p50),
      number(lateness.p99),
      number(lateness.max),
      lateness.sweptShare === null ? '–' : `${Math.round(lateness.sweptShare * 100)} %`,
      seconds(result.takesOrdersAfterMs),
      seconds(result.keepsTimeAfterMs),
      failed.join(', ') || '–',
      verdictOf(result),
    ];
  });
  const widths = heads.map((head, n) => Math.max(head.length, ...lines.map((line) => line[n]?.length ?? 0)));
  const isText = (n: number): boolean => n === 0 || n >= heads.length - 2;
  const format = (line: readonly string[]): string =>
    line
      .map((cell, n) => (isText(n) ? cell.padEnd(widths[n] ?? 0) : cell.padStart(widths[n] ?? 0)))
      .join('  ')
      .trimEnd();
  console.log(styleText('bold', format(heads)));
  for (const [n, line] of lines.entries())
    console.log(results[n]?.breaches.length === 0 ? format(line) : styleText('red', format(line)));
}

function verdictOf({ breaches, isLate }: RunResult): string {
  if (breaches.length > 0) return 'BROKEN';
  return isLate ? 'ok, but late' : 'ok';
}

function number(value: number | null): string {
  return value === null ? '–' : String(Math.round(value));
}

function seconds(ms: number | null): string {
  return ms === null ? 'never' : `${(ms / 1000).toFixed(1)} s`;
}

/** Prints what a run broke, and how to see it again. */
export function printBreaches(
  { name, breaches }: { readonly name: string; readonly breaches: readonly string[] },
  seed: number,
  orderCount: number,
): void {
  if (breaches.length === 0) return;
  console.log(styleText('red', `\n${name}`));
  for (const breach of breaches) console.log(`  ${breach}`);
  console.log(`  again: pnpm chaos ${name} --orders ${orderCount} --seed ${seed}`);
}
