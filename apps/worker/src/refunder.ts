import type { Orders, RefundToTry } from '@lapse/orders';
import type { PaymentProvider, RefundAnswer } from '@lapse/payments';
import { Counter, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How often refunds that are due are looked for, ms. */
const lookEveryMs = 1000;

/** Most refunds under way at a time. */
const claimLimit = 20;

/**
 * Of the time that a provider honours an idempotency key, the part after which a refund without an answer is looked up
 * before it is sent again.
 */
const trustedShare = 0.8;

/**
 * Sends refunds that are due, and asks about those that were sent and never confirmed. A refund is claimed, with the claim
 * committed, before the provider is called: any number of workers do this side by side.
 */
export function refunder(options: {
  orders: Orders;
  providers: ReadonlyMap<string, PaymentProvider>;
  log: Log;
  metrics: Metrics;
}): Service {
  const { orders, providers, log, metrics } = options;
  const tries = new Counter({
    name: 'lapse_refund_tries_total',
    help: 'Refunds that were sent, or asked about, by what the provider said',
    labelNames: ['provider', 'state'],
    registers: [metrics],
  });

  const tryOne = async (refund: RefundToTry): Promise<void> => {
    const { id: refundId, orderId, provider } = refund;
    const said = await askProvider(providers.get(provider), refund);
    tries.inc({ provider, state: said.state });
    const state = await orders.recordRefund({ refundId }, { ...said, actor: 'worker' });
    const told = { refundId, orderId, provider, ...said };
    if (state === 'failed') log.error(told, 'refund was refused, a person must see to it');
    else if (said.state === 'unknown') log.warn(told, 'refund was not answered, trying again');
    else log.info(told, 'refund was taken');
  };

  return periodic({
    name: 'refunder',
    everyMs: lookEveryMs,
    log,
    async task(stopped) {
      for (let mayBeMore = true; mayBeMore && !stopped.aborted;) {
        const due = await orders.claimRefunds(claimLimit);
        const tried = await Promise.allSettled(due.map(tryOne));
        for (const one of tried) if (one.status === 'rejected') throw one.reason;
        mayBeMore = due.length === claimLimit;
      }
    },
  });
}

/**
 * Has a refund sent, or asks about it. Once it may have reached the provider, nothing but the provider's own word ends it: a
 * refund that is given up goes to a person, who returns the money by hand.
 */
async function askProvider(
  provider: PaymentProvider | undefined,
  refund: RefundToTry,
): Promise<RefundAnswer> {
  const { id: refundId, orderId, providerPaymentId, amount, currency, state, sinceFirstTryMs } = refund;
  if (provider === undefined) return unconnected(refund);
  const toSend = { refundId, orderId, providerPaymentId, amount, currency };
  const isForgotten =
    sinceFirstTryMs !== null && sinceFirstTryMs > provider.idempotencyWindowMs * trustedShare;
  if (state === 'sent' || isForgotten) {
    const found = await provider.findRefund(toSend);
    if (found.state !== 'none') return found;
    if (state === 'sent')
      return { state: 'unknown', reason: 'the provider took it, and does not know it any more' };
  }
  const said = await provider.refund(toSend);
  if (said.state !== 'refused' || sinceFirstTryMs === null) return said;
  // The earlier try, of which no answer came, may be why: what was returned already is refused, too.
  const found = await provider.findRefund(toSend);
  return found.state === 'none' ? said : found;
}

/** The answer for a provider that this worker does not have. Another worker may have sent the refund. */
function unconnected({ provider, state, sinceFirstTryMs }: RefundToTry): RefundAnswer {
  const missing = `provider '${provider}' is not connected`;
  return state === 'due' && sinceFirstTryMs === null
    ? { state: 'refused', reason: `${missing}: return the money by hand, then dismiss the payment` }
    : { state: 'unknown', reason: `${missing} to this worker, and may have taken the refund` };
}
