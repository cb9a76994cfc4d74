// What the `main.ts` of the plain service imports: see `plain-service.ts`.
import { openDatabase as openPool, type Database } from '@lapse/runtime';

export * from '@lapse/orders';
export * from '@lapse/runtime';
export { createPlainDeadlines as createDeadlines } from './plain-deadlines.ts';
export { createPlainOrders as createOrders } from './plain-orders.ts';

/** Connections of the plain service: 10 and 16 were as fast on 2 cores, 20 slower. */
const poolSize = 10;

export function openDatabase(options: Parameters<typeof openPool>[0]): Database {
  return openPool({ ...options, max: poolSize });
}
