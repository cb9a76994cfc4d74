import { randomBytes } from 'node:crypto';
import {
  type Answer,
  type Intent,
  type Metadata,
  missing,
  type Page,
  type Refund,
  refusal,
} from './objects.ts';

/** What a page or a PaymentIntent is made of. */
interface Order {
  readonly amount: number;
  readonly currency: string;
  readonly description: string | null;
  readonly metadata: Metadata;
}

/** What is created, and what becomes of it, at Stripe. */
export type StripeAccount = ReturnType<typeof createAccount>;

/**
 * An account at Stripe.
 *
 * @param pageOf the address of a page
 * @param tell hears of every event
 */
export function createAccount({
  pageOf,
  tell,
}: {
  readonly pageOf: (id: string) => string;
  readonly tell: (type: string, object: object) => void;
}) {
  const pages = new Map<string, Page>();
  /** What the PaymentIntents of pages are made of. */
  const orders = new Map<string, Order>();
  const intents = new Map<string, Intent>();
  const refunds: Refund[] = [];
  /** PaymentIntents whose customers are at their bank. */
  const atBank = new Set<string>();
  let refundStatus: 'succeeded' | 'pending' = 'succeeded';

  function createIntent({ amount, currency, description, metadata }: Order): Intent {
    const id = newId('pi_');
    const intent: Intent = {
      id,
      object: 'payment_intent',
      amount,
      amount_received: 0,
      canceled_at: null,
      cancellation_reason: null,
      capture_method: 'automatic_async',
      client_secret: `${id}_secret_${randomBytes(12).toString('hex')}`,
      created: now(),
      currency,
      description,
      last_payment_error: null,
      latest_charge: null,
      livemode: false,
      metadata,
      next_action: null,
      status: 'requires_payment_method',
    };
    intents.set(id, intent);
    tell('payment_intent.created', intent);
    return intent;
  }

  function cancelIntent(intent: Intent, reason: string): void {
    intent.status = 'canceled';
    intent.canceled_at = now();
    intent.cancellation_reason = reason;
    intent.next_action = null;
    tell('payment_intent.canceled', intent);
  }

  function findPage(id: string): Page | undefined {
    const page = pages.get(id);
    if (page?.status === 'open' && page.expires_at <= now()) expire(page);
    return page;
  }

  function pageWith(intent: Intent): Page | undefined {
    return [...pages.values()].find(({ payment_intent }) => payment_intent === intent.id);
  }

  /**
   * Stripe does not say what becomes of a customer who is at their bank while the page expires. Here is the worst case:
   * they come back with the money.
   */
  function expire(page: Page): void {
    page.status = 'expired';
    page.url = null;
    const intent = intents.get(page.payment_intent ?? '');
    if (intent !== undefined && !atBank.has(intent.id)) cancelIntent(intent, 'automatic');
    tell('checkout.session.expired', page);
  }

  function complete(page: Page | undefined, payment_status: Page['payment_status']): void {
    if (page === undefined || page.status === 'expired') return;
    const event = page.status === 'open' ? 'completed' : 'async_payment_succeeded';
    page.status = 'complete';
    page.payment_status = payment_status;
    page.url = null;
    tell(`checkout.session.${event}`, page);
  }

  function succeed(intent: Intent): void {
    intent.status = 'succeeded';
    intent.amount_received = intent.amount;
    intent.latest_charge = newId('ch_');
    intent.next_action = null;
    intent.last_payment_error = null;
    tell('payment_intent.succeeded', intent);
    tell('charge.succeeded', chargeOf(intent));
    complete(pageWith(intent), 'paid');
  }

  function fail(intent: Intent, code: string): void {
    intent.status = 'requires_payment_method';
    intent.next_action = null;
    intent.last_payment_error = { type: 'card_error', code, message: 'The payment failed.' };
    tell('payment_intent.payment_failed', intent);
  }

  function refundsOf(intentId: string): readonly Refund[] {
    return refunds.filter(({ payment_intent }) => payment_intent === intentId);
  }

  function returnedOf(intentId: string): number {
    return refundsOf(intentId)
      .filter(({ status }) => status === 'succeeded' || status === 'pending')
      .reduce((sum, { amount }) => sum + amount, 0);
  }

  /** Newer API versions leave the refunds out. */
  function chargeOf({ id, amount, currency, latest_charge, metadata }: Intent): object {
    const amount_refunded = returnedOf(id);
    const refunded = amount_refunded === amount;
    return {
      id: latest_charge,
      object: 'charge',
      amount,
      amount_refunded,
      currency,
      metadata,
      payment_intent: id,
      refunded,
    };
  }

  function addRefund(intent: Intent, amount: number, metadata: Metadata): Refund {
    const refund: Refund = {
      id: newId('re_'),
      object: 'refund',
      amount,
      charge: intent.latest_charge ?? '',
      created: now(),
      currency: intent.currency,
      metadata,
      payment_intent: intent.id,
      reason: null,
      status: refundStatus,
    };
    // The newest first, as they are listed.
    refunds.unshift(refund);
    tell('refund.created', refund);
    tell('charge.refunded', chargeOf(intent));
    return refund;
  }

  /** What a customer pays by; undefined: they cannot pay any more. */
  function begin(id: string): Intent | undefined {
    const page = findPage(id);
    if (page === undefined) {
      const intent = intentOf(id);
      return intent.status.startsWith('requires_') ? intent : undefined;
    }
    if (page.status !== 'open') return undefined;
    const order = orders.get(id);
    if (page.payment_intent === null && order !== undefined) page.payment_intent = createIntent(order).id;
    return intentOf(id);
  }

  function intentOf(id: string): Intent {
    const intent = intents.get(pages.get(id)?.payment_intent ?? id);
    if (intent === undefined) throw new Error(`there is no payment of ${id}`);
    return intent;
  }

  const customers = {
    /** Pays, at once; false: they could not, the page or the payment is closed. */
    pay(id: string): boolean {
      const intent = begin(id);
      if (intent !== undefined) succeed(intent);
      return intent !== undefined;
    },
    /** Tries a card that is declined. */
    decline(id: string): void {
      const intent = begin(id);
      if (intent !== undefined) fail(intent, 'card_declined');
    },
    /** Is sent to their bank, to prove who they are. */
    goToBank(id: string): void {
      const intent = begin(id);
      if (intent === undefined) return;
      atBank.add(intent.id);
      intent.status = 'requires_action';
      intent.next_action = { type: 'redirect_to_url' };
      tell('payment_intent.requires_action', intent);
    },
    /** Comes back from their bank; false: the payment is closed. */
    returnFromBank(id: string, end: 'paid' | 'failed'): boolean {
      const intent = intentOf(id);
      atBank.delete(intent.id);
      if (intent.status !== 'requires_action') return false;
      if (end === 'paid') succeed(intent);
      else fail(intent, 'payment_intent_authentication_failure');
      return true;
    },
    /** Pays in a way that takes days. */
    payLater(id: string, by: 'debit' | 'voucher' | 'transfer'): void {
      const intent = begin(id);
      if (intent === undefined) return;
      intent.status = by === 'debit' ? 'processing' : 'requires_action';
      if (by === 'voucher') intent.next_action = { type: 'boleto_display_details' };
      if (by === 'transfer') intent.next_action = { type: 'display_bank_transfer_instructions' };
      tell(`payment_intent.${intent.status}`, intent);
      complete(pageWith(intent), 'unpaid');
    },
    /** Ends what takes days. */
    settle(id: string, end: 'paid' | 'failed'): void {
      const intent = intentOf(id);
      if (end === 'paid') {
        succeed(intent);
        return;
      }
      fail(intent, 'payment_intent_payment_attempt_failed');
      const page = pageWith(intent);
      if (page !== undefined) tell('checkout.session.async_payment_failed', page);
    },
  };

  const owner = {
    /** The time of a page is over. */
    expirePage(id: string): void {
      const page = findPage(id);
      if (page?.status === 'open') expire(page);
    },
    /** What becomes of refunds at first. Default: they succeed. */
    refundsAre(status: 'succeeded' | 'pending'): void {
      refundStatus = status;
    },
    /** Ends a refund. */
    settleRefund(id: string, end: 'succeeded' | 'failed' | 'canceled', reason?: string): void {
      const refund = refunds.find((one) => one.id === id);
      if (refund === undefined) throw new Error(`there is no refund ${id}`);
      refund.status = end;
      if (reason !== undefined) refund.failure_reason = reason;
      tell('refund.updated', refund);
      if (end === 'failed') tell('refund.failed', refund);
    },
    /** Refunds by hand, in the dashboard: a part, or all. */
    refundByHand(id: string, amount?: number): void {
      const intent = intentOf(id);
      addRefund(intent, amount ?? intent.amount, {});
    },
    /** Takes money for something else than an order; returns its PaymentIntent. */
    takeOtherPayment(amount: number, currency: string): string {
      const intent = createIntent({ amount, currency, description: 'A donation', metadata: {} });
      succeed(intent);
      return intent.id;
    },
    /** The PaymentIntent of a page; null: there is none yet. */
    intentIdOf: (pageId: string): string | null => pages.get(pageId)?.payment_intent ?? null,
    /** Its refunds, the newest first. */
    refundsOf,
  };

  const api = {
    findPage,
    findIntent: (id: string) => intents.get(id),
    chargeOf,
    findRefund: (id: string) => refunds.find((refund) => refund.id === id),

    createPage(
      made: Omit<
        Page,
        'id' | 'object' | 'created' | 'url' | 'livemode' | 'status' | 'payment_status' | 'payment_intent'
      >,
      order: Order,
    ): Page {
      const id = newId('cs_test_');
      const page: Page = {
        ...made,
        id,
        object: 'checkout.session',
        created: now(),
        livemode: false,
        payment_intent: null,
        payment_status: 'unpaid',
        status: 'open',
        url: pageOf(id),
      };
      pages.set(id, page);
      orders.set(id, order);
      return page;
    },

    createIntent,

    expirePage(id: string): Answer {
      const page = findPage(id);
      if (page === undefined) return missing('checkout session', id, 'session');
      if (page.status !== 'open') {
        return refusal(
          400,
          `Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of \`${page.status}\`.`,
          { isKept: true },
        );
      }
      expire(page);
      return { status: 200, body: page, isKept: true };
    },

    cancelIntent(id: string, reason: string): Answer {
      const intent = intents.get(id);
      if (intent === undefined) return missing('payment_intent', id, 'intent');
      if (!intent.status.startsWith('requires_')) {
        return refusal(
          400,
          `You cannot cancel this PaymentIntent because it has a status of ${intent.status}. Only a PaymentIntent with one of the following statuses may be canceled: requires_payment_method, requires_capture, requires_confirmation, requires_action.`,
          { code: 'payment_intent_unexpected_state', isKept: true },
        );
      }
      if (pageWith(intent) !== undefined && intent.status !== 'requires_capture') {
        return refusal(
          400,
          'You cannot cancel the PaymentIntent of a Checkout Session. Expire the session instead.',
          {
            isKept: true,
          },
        );
      }
      cancelIntent(intent, reason);
      return { status: 200, body: intent, isKept: true };
    },

    refund(intentId: string, wished: number | undefined, metadata: Metadata): Answer {
      const intent = intents.get(intentId);
      if (intent === undefined) return missing('payment_intent', intentId, 'payment_intent');
      const { latest_charge } = intent;
      if (latest_charge === null) {
        return refusal(400, `This PaymentIntent (${intentId}) does not have a successful charge to refund.`, {
          isKept: true,
        });
      }
      const left = intent.amount_received - returnedOf(intentId);
      if (left === 0) {
        return refusal(400, `Charge ${latest_charge} has already been refunded.`, {
          code: 'charge_already_refunded',
          isKept: true,
        });
      }
      const amount = wished ?? left;
      if (amount > left) {
        return refusal(
          400,
          `Refund amount (${amount}) is greater than unrefunded amount on charge (${left})`,
          {
            param: 'amount',
            isKept: true,
          },
        );
      }
      return { status: 200, body: addRefund(intent, amount, metadata), isKept: true };
    },

    refundsOf,
  };

  return { customers, owner, api };
}

function newId(prefix: string): string {
  return prefix + randomBytes(12).toString('hex');
}

/** Seconds since 1970. */
function now(): number {
  return Math.floor(Date.now() / 1000);
}
