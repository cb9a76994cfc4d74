import { readdirSync, readFileSync } from 'node:fs';

/** Linux counts processor time in hundredths of a second, on every machine. */
const ticksPerSecond = 100;

/** Fields of /proc/<pid>/stat behind the command's closing parenthesis: 1 parent's pid, 11 to 14 times, in ticks. */
function statOf(pid: string): readonly string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/**
 * Processor time that a process and its children have used so far, s: of children that have ended, too. PostgreSQL's
 * backends are children of the postmaster.
 */
export function processorSeconds(pid: number): number {
  const own = statOf(String(pid)) ?? [];
  let ticks = sum(own.slice(11, 15));
  for (const name of readdirSync('/proc')) {
    const stat = /^\d+$/.test(name) ? statOf(name) : undefined;
    if (stat?.[1] === String(pid)) ticks += sum(stat.slice(11, 13));
  }
  return ticks / ticksPerSecond;
}

function sum(values: readonly string[]): number {
  return values.reduce((total, value) => total + Number(value), 0);
}
