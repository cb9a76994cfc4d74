import { stripVTControlCharacters, styleText } from 'node:util';

import type { Surroundings } from '../surroundings.ts';
import { readable, type Report, type Table, type Verdict } from './harness.ts';

/** Prints what a bench found: its tables, then what was promised and whether it was kept. */
export function printReport(report: Report): void {
  for (const table of report.tables) printTable(table);
  printVerdicts(report.verdicts);
}

/** Prints, in the end, what was promised by all benches and measured, worst news last. */
export function printSummary(verdicts: readonly (Verdict & { readonly bench: string })[]): void {
  if (verdicts.length === 0) return;
  const shortCount = verdicts.filter(({ isKept }) => !isKept).length;
  const text =
    shortCount === 0
      ? `Kept: all of ${verdicts.length} promised figures.`
      : `NOT kept: ${shortCount} of ${verdicts.length} promised figures.`;
  console.log(`\n${styleText(shortCount === 0 ? 'green' : ['red', 'bold'], text)}`);
  for (const { bench, figure, promised, measured, isKept } of verdicts) {
    if (!isKept) console.log(`  ${bench}: ${figure} is ${readable(measured)}, promised ${promised}`);
  }
}

/** Prints on what it was measured. */
export function printSurroundings(facts: Surroundings): void {
  const { lapse, node, postgresql, redis, system, processor, coreCount, memoryGiB } = facts;
  console.log(`Lapse ${lapse}, Node ${node}, PostgreSQL ${postgresql}, Redis ${redis}`);
  console.log(`${coreCount} × ${processor}, ${memoryGiB} GiB, ${system}, all on this machine`);
}

function printTable({ title, lines }: Table): void {
  const heads = [...new Set(lines.flatMap((line) => Object.keys(line)))];
  const cells = lines.map((line) =>
    heads.map((head) => {
      const value = line[head] ?? '';
      return typeof value === 'number' ? readable(value) : value;
    }),
  );
  console.log(`\n${styleText('bold', title)}`);
  printAligned([heads.map((head) => styleText('dim', head)), ...cells]);
}

function printVerdicts(verdicts: readonly Verdict[]): void {
  if (verdicts.length === 0) return;
  console.log('');
  printAligned([
    ['', 'promised', 'measured', ''].map((head) => styleText('dim', head)),
    ...verdicts.map(({ figure, promised, measured, isKept }) => [
      figure,
      promised,
      readable(measured),
      isKept ? styleText('green', 'kept') : styleText(['red', 'bold'], 'SHORT'),
    ]),
  ]);
}

/** The first column to the left, the others to the right. */
function printAligned(lines: readonly (readonly string[])[]): void {
  const widths = (lines[0] ?? []).map((_, n) => Math.max(...lines.map((line) => widthOf(line[n] ?? ''))));
  for (const line of lines) {
    const cells = line.map((cell, n) => {
      const gap = ' '.repeat((widths[n] ?? 0) - widthOf(cell));
      return n === 0 ? cell + gap : gap + cell;
    });
    console.log(`  ${cells.join('   ').trimEnd()}`);
  }
}

function widthOf(cell: string): number {
  return stripVTControlCharacters(cell).length;
}
