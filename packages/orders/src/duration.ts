const unitMs: Readonly<Record<string, number>> = { d: 86_400_000, h: 3_600_000, m: 60_000, s: 1000, ms: 1 };

/**
 * Reads a duration as people write it: `30m`, `2h`, `7d`, `90s` or `500ms`.
 *
 * @returns ms; undefined where it is none
 */
export function parseDuration(text: string): number | undefined {
  const [, count, unit = ''] = /^(\d{1,12})(ms|[smhd])$/.exec(text) ?? [];
  const each = unitMs[unit];
  return count === undefined || each === undefined ? undefined : Number(count) * each;
}

/** Writes whole milliseconds as people do, in the largest unit that tells them exactly: 90,000 is `90s`. */
export function formatDuration(ms: number): string {
  const [unit, each] = Object.entries(unitMs).find(([, size]) => ms % size === 0 && ms >= size) ?? [
    's',
    1000,
  ];
  return `${ms / each}${unit}`;
}
