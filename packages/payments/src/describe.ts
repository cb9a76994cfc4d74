import type { AttemptToOpen } from './provider.ts';

/** An attempt as it is stored. */
interface StoredAttempt {
  readonly id: string;
  readonly orderId: string;
  readonly payBy: Date | null;
  readonly handOffAs: 'url' | 'client_secret';
  readonly returnUrl: string | null;
}

/** The order that it is to pay. */
interface PayableOrder {
  readonly reference: string | null;
  readonly amount: number;
  readonly currency: string;
}

/**
 * Describes a stored attempt to its provider. The same attempt is described in the same way each time: under its id as
 * idempotency key the provider refuses another description.
 */
export function describeAttempt(attempt: StoredAttempt, order: PayableOrder): AttemptToOpen {
  const { id, orderId, payBy, handOffAs, returnUrl } = attempt;
  return {
    attemptId: id,
    orderId,
    amount: order.amount,
    currency: order.currency,
    payBy,
    handOff: handOffAs,
    returnUrl,
    description: `Order ${order.reference ?? orderId}`,
  };
}
