// The door alone: what its `main.ts` imports, with nothing behind it. See `plain-service.ts`.
import type { Deadlines } from '@lapse/deadlines';
import type { Orders } from '@lapse/orders';

export * from '@lapse/orders';
export * from '@lapse/runtime';

const at = new Date();

/** Answers every checkout with the same order, at once; only its items are the request's. */
export function createOrders(): Pick<Orders, 'checkout'> {
  return {
    checkout: (request) =>
      Promise.resolve({
        outcome: 'placed',
        replayed: false,
        order: {
          id: '01890000-0000-7000-8000-000000000000',
          partition: 0,
          reference: request.reference,
          channel: 'default',
          paymentMethod: 'card',
          status: 'pending_payment',
          cancelReason: null,
          currency: 'EUR',
          amount: 1,
          items: request.items,
          metadata: request.metadata,
          createdAt: at,
          deadlineAt: at,
          remainingMs: 0,
          paidAt: null,
          cancelledAt: null,
          expireAt: at,
          remindAt: null,
        },
      }),
  };
}

/** Arms nothing. */
export function createDeadlines(): Pick<Deadlines, 'arm' | 'reachable' | 'stop'> {
  return {
    arm: () => Promise.resolve('armed'),
    reachable: () => Promise.resolve(true),
    stop: () => Promise.resolve(),
  };
}
