import { styleText } from 'node:util';

const shownLevels = new Set(['warn', 'error', 'fatal']);

/** Prints a line of an app's log, if a person should see it: the time, who, what, and the fields. */
export function printLogLine(name: string, line: string): void {
  const entry = parseEntry(line);
  if (entry === undefined) {
    console.log(`${name}: ${line}`);
    return;
  }
  const { level, time, msg, app: _, pid: __, err, ...fields } = entry;
  if (typeof level !== 'string' || !shownLevels.has(level)) return;
  const details = [
    ...Object.entries(fields).map(([field, value]) => `${field}=${JSON.stringify(value)}`),
    ...(err === undefined ? [] : [messageOf(err)]),
  ];
  const colour = level === 'warn' ? 'yellow' : 'red';
  console.log(`${String(time).slice(11, 23)} ${name} ${styleText(colour, String(msg))} ${details.join(' ')}`);
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
