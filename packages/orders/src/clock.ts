import type { Queryable, Statement } from '@lapse/runtime';

/** A measurement that took longer than this says little, ms. */
const slowMs = 500;

const readClock: Statement = {
  name: 'clock',
  text: 'select (extract(epoch from clock_timestamp()) * 1000)::float8 as "databaseMs"',
};

/**
 * How far this process's clock is ahead of the database's, ms, exact to half the round trip; negative when it is behind.
 *
 * @returns undefined when the database took too long to say
 */
export async function clockOffsetMs(db: Queryable): Promise<number | undefined> {
  const startedAt = performance.now();
  const [row] = await db.query<{ databaseMs: number }>(readClock);
  const tookMs = performance.now() - startedAt;
  if (row === undefined || tookMs > slowMs) return undefined;
  return Date.now() - tookMs / 2 - row.databaseMs;
}
