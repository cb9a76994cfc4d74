import type { Stripe } from 'stripe';
import type { RefundAnswer, Verdict } from '../provider.ts';
import { fromStripe } from './amounts.ts';

/** What became of an attempt, or that the customer may still pay. */
export type Look = Verdict | { readonly verdict: 'open' };

/** A PaymentIntent that is neither ended nor on its way, so that somebody might still confirm or capture it. */
export function isUnended({ status }: Stripe.PaymentIntent): boolean {
  return status === 'requires_action' || status === 'requires_capture' || status === 'requires_confirmation';
}

/**
 * What became of a payment on Stripe's page. A page gets its PaymentIntent when the customer first tries to pay, and no
 * other afterwards.
 */
export function judgePage(page: Stripe.Checkout.Session): Look {
  const intent = page.payment_intent;
  if (typeof intent === 'string') return unclear(`Stripe did not say what became of ${intent}.`);
  const status: string = page.status ?? 'in no state';
  switch (status) {
    case 'open':
      return { verdict: 'open' };
    case 'complete':
      return intent === null
        ? unclear(`${page.id} is complete without a payment.`)
        : judgeCompleted(page, intent);
    case 'expired':
      return intent === null ? { verdict: 'closed' } : judgeExpired(page, intent);
    default:
      return unclear(`${page.id} is ${status}.`);
  }
}

/** The customer did all there is to do on the page. It cannot be used again, even when the payment fails later. */
function judgeCompleted({ id, payment_status }: Stripe.Checkout.Session, intent: Stripe.PaymentIntent): Look {
  if (intent.status === 'succeeded') return paid(intent);
  if (payment_status !== 'unpaid')
    return unclear(`${id} is ${payment_status}, and ${intent.id} ${intent.status}.`);
  const hasFailed = intent.status === 'requires_payment_method' && intent.last_payment_error !== null;
  // A voucher (Boleto, Konbini, OXXO) that was not paid yet is `requires_action`, a debit is `processing`.
  return { verdict: hasFailed || intent.status === 'canceled' ? 'closed' : 'processing' };
}

/** Nobody can begin to pay on the page any more. Who began before may be at their bank. */
function judgeExpired({ id }: Stripe.Checkout.Session, intent: Stripe.PaymentIntent): Look {
  const look = judgeForm(intent);
  if (look.verdict !== 'open') return look;
  return isUnended(intent)
    ? unclear(`${id} is expired, and ${intent.id} still ${intent.status}.`)
    : { verdict: 'closed' };
}

/** What became of a payment by a form in the shop's own page. */
export function judgeForm(intent: Stripe.PaymentIntent): Look {
  switch (intent.status) {
    case 'succeeded':
      return paid(intent);
    case 'processing':
      return { verdict: 'processing' };
    case 'canceled':
      return { verdict: 'closed' };
    case 'requires_payment_method':
    case 'requires_confirmation':
    case 'requires_action':
    case 'requires_capture':
      return { verdict: 'open' };
    default:
      return unclear(`${intent.id} is ${intent.status}.`);
  }
}

/** What became of a refund. */
export function judgeRefund(refund: Stripe.Refund): RefundAnswer {
  const { id, failure_reason } = refund;
  const status = refund.status ?? 'in no state';
  switch (status) {
    case 'succeeded':
      return { state: 'confirmed', providerRefundId: id };
    case 'pending':
    // The customer must say where the money is to go; Stripe asks them.
    case 'requires_action':
      return { state: 'sent', providerRefundId: id };
    case 'failed':
    case 'canceled':
      return { state: 'refused', reason: `${id} has ${status}: ${failure_reason ?? 'no reason given'}.` };
    default:
      return { state: 'unknown', reason: `${id} is ${status}.`, isProviderWell: true };
  }
}

function paid({ id, amount_received, currency }: Stripe.PaymentIntent): Look {
  const amount = fromStripe(amount_received, currency);
  if (amount === undefined)
    return unclear(`${id} brought ${amount_received} ${currency}, which cannot be counted.`);
  return { verdict: 'paid', capture: { providerPaymentId: id, amount, currency: currency.toUpperCase() } };
}

function unclear(reason: string): Look {
  return { verdict: 'unknown', reason, isProviderWell: true };
}
