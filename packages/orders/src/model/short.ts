import type { Command } from './commands.ts';
import type { Method, Provider } from './shop.ts';

// Commands in short, for tests that write them out.

export const minuteMs = 60_000;

/** A capture of so much more than the order costs. */
export const pay = (order: string, capture: string, excess = 0, verified = false): Command => ({
  do: 'pay',
  order,
  capture,
  excess,
  currency: 'EUR',
  verified,
  key: null,
});
/** An order of a piece of tea. */
export const checkout = (order: string, windowMs: number, method: Method = 'card'): Command => ({
  do: 'checkout',
  order,
  channel: 'web',
  method,
  items: { tea: 1 },
  windowMs,
  key: null,
});
/** A customer wants to pay by a provider. */
export const begin = (attempt: string, order: string, provider: Provider): Command => ({
  do: 'begin attempt',
  attempt,
  order,
  provider,
});

export const thawStep: Command = { do: 'thaw step', limit: 10 };
