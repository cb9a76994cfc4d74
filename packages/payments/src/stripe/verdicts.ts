import type { Stripe } from 'stripe';
import type { RefundAnswer, Verdict } from '../provider.ts';
import { fromStripe } from './amounts.ts';

/** What became of an attempt, or that the customer may still pay. */
export type Look = Verdict | { readonly verdict: 'open' };

/** The customer was told how to pay elsewhere, by a voucher or a bank transfer, and may have done so. */
const paidElsewhere: ReadonlySet<string> = new Set([
  'boleto_display_details',
  'display_bank_transfer_instructions',
  'konbini_display_details',
  'multibanco_display_details',
  'oxxo_display_details',
]);

/** Money may be under way for days: a debit, a voucher, a bank transfer. */
function isOnItsWay({ status, next_action }: Stripe.PaymentIntent): boolean {
  if (status === 'processing') return true;
  return status === 'requires_action' && next_action !== null && paidElsewhere.has(next_action.type);
}

/** A PaymentIntent that is neither ended nor on its way, so that somebody might still confirm or capture it. */
export function isUnended(intent: Stripe.PaymentIntent): boolean {
  const { status } = intent;
  if (isOnItsWay(intent)) return false;
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
      return { verdict: isOnItsWay(intent) ? 'processing' : 'open' };
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

/** Money came; where a person has returned it in Stripe's dashboard meanwhile, it pays for nothing any more. */
function paid({ id, amount_received, currency, latest_charge: charge }: Stripe.PaymentIntent): Look {
  if (typeof charge === 'string') return unclear(`Stripe did not say whether ${id} was returned.`);
  const returned = charge?.amount_refunded ?? 0;
  if (charge?.refunded === true) return { verdict: 'closed' };
  if (returned > 0) {
    return unclear(
      `${id} was paid, and of ${amount_received} ${currency}, as Stripe counts, ${returned} were returned at Stripe: return the rest there, or report the payment by hand.`,
    );
  }
  const amount = fromStripe(amount_received, currency);
  if (amount === undefined)
    return unclear(`${id} brought ${amount_received} ${currency}, which cannot be counted.`);
  return { verdict: 'paid', capture: { providerPaymentId: id, amount, currency: currency.toUpperCase() } };
}

function unclear(reason: string): Look {
  return { verdict: 'unknown', reason, isProviderWell: true };
}
