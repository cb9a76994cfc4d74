// What the `main.ts` of an app imports of these packages, with a call that halts: see `halting-app.ts`.
import { createDeadlines as realDeadlines, type Deadlines } from '@lapse/deadlines';
import { createOrders as realOrders, type Orders } from '@lapse/orders';
import { createProviders as realProviders, type PaymentProvider } from '@lapse/payments';
import { openDatabase as realDatabase, type Database } from '@lapse/runtime';

import { haltAt, haltAtCommit, pointFrom } from './halt.ts';

export * from '@lapse/deadlines';
export * from '@lapse/runtime';
// By their names: some types of these are called the same.
export { loadPolicies, migrationsDir } from '@lapse/orders';
export { providerSettings } from '@lapse/payments';

const deadlineCalls = ['arm', 'disarm', 'rearm', 'armMany'] as const;
const orderCalls = ['pay', 'recordOpened', 'recordVerdict', 'recordRefund', 'decideWork'] as const;
const providerCalls = ['open', 'close', 'look', 'refund'] as const;

const { searchParams } = new URL(import.meta.url);
const point = pointFrom(
  [...searchParams.values()],
  ['commit', ...deadlineCalls, ...orderCalls, ...providerCalls],
);

/** The port, halting if the point is one of these calls of it. */
function halting<Port extends object>(port: Port, calls: readonly (string & keyof Port)[]): Port {
  const call = calls.find((name) => name === point?.call);
  return point === undefined || call === undefined ? port : haltAt(port, call, point.moment);
}

export function createDeadlines(options: Parameters<typeof realDeadlines>[0]): Deadlines {
  return halting(realDeadlines(options), deadlineCalls);
}

export function createOrders(options: Parameters<typeof realOrders>[0]): Orders {
  return halting(realOrders(options), orderCalls);
}

export function createProviders(
  ...args: Parameters<typeof realProviders>
): ReadonlyMap<string, PaymentProvider> {
  return new Map(
    [...realProviders(...args)].map(([name, provider]) => [name, halting(provider, providerCalls)]),
  );
}

export function openDatabase(options: Parameters<typeof realDatabase>[0]): Database {
  const database = realDatabase(options);
  if (point?.call === 'commit') haltAtCommit(database, point.moment);
  return database;
}
