import { styleText } from 'node:util';

/** From the least to the gravest. `silent` is graver than all: nothing is. */
const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

export type Level = (typeof levels)[number];

/** The lesser of two levels. */
export function lesserLevel(one: Level, other: Level): Level {
  return levels.indexOf(one) < levels.indexOf(other) ? one : other;
}

/**
 * Prints a line of an app's log: the time, who, what, and the fields. What is no entry of a log is printed as it is.
 *
 * @param leastLevel entries below it are left out
 */
export function printLogLine(name: string, line: string, leastLevel: Level): void {
  const entry = parseEntry(line);
  if (entry === undefined) {
    console.log(`${name}: ${line}`);
    return;
  }
  const { level, time, msg, app: _, pid: __, err, ...fields } = entry;
  const shown: readonly unknown[] = levels.slice(levels.indexOf(leastLevel));
  if (!shown.includes(level)) return;
  const details = [
    ...Object.entries(fields).map(([field, value]) => `${field}=${JSON.stringify(value)}`),
    ...(err === undefined ? [] : [messageOf(err)]),
  ];
  const what = `${styleText(colourOf(level), String(msg))} ${details.join(' ')}`.trimEnd();
  console.log(`${String(time).slice(11, 23)} ${name} ${what}`);
}

function colourOf(level: unknown): 'dim' | 'yellow' | 'red' {
  if (level === 'error' || level === 'fatal') return 'red';
  return level === 'warn' ? 'yellow' : 'dim';
}

function parseEntry(line: string): Record<string, unknown> | undefined {
  try {
    const entry: unknown = JSON.parse(line);
    return typeof entry === 'object' && entry !== null ? { ...entry } : undefined;
  } catch {
    return undefined;
  }
}

function messageOf(error: unknown): string {
  const message: unknown =
    typeof error === 'object' && error !== null ? Reflect.get(error, 'message') : error;
  return String(message);
}
