// What the `main.ts` of an app imports of both packages, with a call that halts: see `halting-app.ts`.
import { createDeadlines as realDeadlines, type Deadlines } from '@lapse/deadlines';
import { openDatabase as realDatabase, type Database } from '@lapse/runtime';

import { haltAt, haltAtCommit, pointFrom } from './halt.ts';

export * from '@lapse/deadlines';
export * from '@lapse/runtime';

const { searchParams } = new URL(import.meta.url);
const point = pointFrom([...searchParams.values()], ['commit', 'arm', 'disarm', 'rearm', 'armMany']);

export function createDeadlines(options: Parameters<typeof realDeadlines>[0]): Deadlines {
  const deadlines = realDeadlines(options);
  return point === undefined || point.call === 'commit'
    ? deadlines
    : haltAt(deadlines, point.call, point.moment);
}

export function openDatabase(options: Parameters<typeof realDatabase>[0]): Database {
  const database = realDatabase(options);
  if (point?.call === 'commit') haltAtCommit(database, point.moment);
  return database;
}
