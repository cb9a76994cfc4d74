import type { PaymentProvider } from './provider.ts';

/**
 * Payment without a provider that could be asked: bank transfer, cash on delivery. A person sees the money and reports it.
 * So a closed attempt is no promise here: money that comes all the same is a late payment, on the work list.
 */
export function offlineProvider(): PaymentProvider {
  return {
    name: 'offline',
    // No refund is ever sent, so none is remembered.
    idempotencyWindowMs: 0,
    open({ attemptId, orderId, description }) {
      const instructions = `${description}. Payment reference: ${orderId}`;
      return Promise.resolve({ outcome: 'opened', providerAttemptId: attemptId, handOff: { instructions } });
    },
    close: () => Promise.resolve({ verdict: 'closed' }),
    look: () => Promise.resolve({ verdict: 'open' }),
    refund: () =>
      Promise.resolve({ state: 'refused', reason: 'Money that was paid offline is returned by a person.' }),
    findRefund: () => Promise.resolve({ state: 'none' }),
    readWebhook: () => ({ outcome: 'forged', reason: 'Nobody sends notices of offline payments.' }),
  };
}
