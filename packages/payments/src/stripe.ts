import type { Log } from '@lapse/runtime';
import { Stripe } from 'stripe';
import type {
  AttemptToOpen,
  HandOff,
  OpenAnswer,
  PaymentProvider,
  RefundAnswer,
  RefundToSend,
} from './provider.ts';
import { toStripe, type StripeAmount } from './stripe/amounts.ts';
import { asker, unsaid, type Asked } from './stripe/ask.ts';
import { attemptMetadata, formMetadata, refundIn, refundMetadata } from './stripe/metadata.ts';
import { pageExpiresAt } from './stripe/page-expiry.ts';
import { isUnended, judgeForm, judgePage, judgeRefund, type Look } from './stripe/verdicts.ts';
import { readWebhook } from './stripe/webhook.ts';

/** How Stripe is reached. */
export interface StripeOptions {
  /** `sk_…` or, with rights to Checkout Sessions, PaymentIntents and Refunds, `rk_…`. */
  readonly secretKey: string;
  /** `whsec_…`, of the webhook endpoint at Stripe that leads to `/hooks/stripe`. */
  readonly webhookSecret: string;
  /** Another server that speaks Stripe's language. Default: Stripe's. */
  readonly apiUrl?: string;
  /** How long one call over HTTP may take, its whole answer included, ms; to close takes up to four. Default 8000. */
  readonly timeoutMs?: number;
  readonly log: Log;
  /** ms since 1970, for the age of webhooks. Default: the clock. */
  readonly now?: () => number;
}

/**
 * Pinned, so that a new version of the library, which brings its own, does not change unseen what is said to Stripe and
 * what Stripe answers: its type admits no other.
 */
const apiVersion = '2026-10-28.endive';

/** Stripe keeps idempotency keys for at least a day by its clock; an hour less by ours. */
const idempotencyWindowMs = 23 * 60 * 60_000;

/**
 * Stripe: its own payment page (a Checkout Session) for the hand-off `url`, a PaymentIntent for a form in the shop's page
 * for `client_secret`. Either way a capture is named by its PaymentIntent.
 *
 * A call is tried once; whoever asks tries again. Amounts that Stripe cannot count exactly are refused.
 */
export function stripeProvider(options: StripeOptions): PaymentProvider {
  const { secretKey, webhookSecret, apiUrl, timeoutMs = 8000, log, now = Date.now } = options;
  const stripe = new Stripe(secretKey, {
    apiVersion,
    timeout: timeoutMs,
    // After a cut connection the library tries once more all the same, under the same idempotency key.
    maxNetworkRetries: 0,
    telemetry: false,
    ...(apiUrl === undefined ? {} : addressOf(apiUrl)),
  });
  const { ask, askOnce } = asker({ timeoutMs, log });

  async function openPage(attempt: AttemptToOpen, { amount, currency }: StripeAmount): Promise<OpenAnswer> {
    const { attemptId, orderId, payBy, returnUrl, description } = attempt;
    if (returnUrl === null) {
      return { outcome: 'refused', reason: "Stripe's page needs a returnUrl, to send the customer to." };
    }
    const metadata = attemptMetadata(attempt);
    // Each of these comes from the attempt alone: who opens it again must say the same to the letter.
    const asked = await askOnce(attemptId, (once) =>
      stripe.checkout.sessions.create(
        {
          mode: 'payment',
          ui_mode: 'hosted_page',
          client_reference_id: orderId,
          line_items: [
            {
              quantity: 1,
              price_data: { currency, unit_amount: amount, product_data: { name: description } },
            },
          ],
          success_url: returnUrl,
          cancel_url: returnUrl,
          expires_at: pageExpiresAt(attemptId, payBy),
          metadata,
          payment_intent_data: { description, metadata },
        },
        once,
      ),
    );
    return opened(asked, ({ url }) => (url === null ? undefined : { url }));
  }

  async function openForm(attempt: AttemptToOpen, { amount, currency }: StripeAmount): Promise<OpenAnswer> {
    const { attemptId, description } = attempt;
    const asked = await askOnce(attemptId, (once) =>
      stripe.paymentIntents.create(
        {
          amount,
          currency,
          automatic_payment_methods: { enabled: true },
          description,
          metadata: formMetadata(attempt),
        },
        once,
      ),
    );
    return opened(asked, ({ client_secret: clientSecret }) =>
      clientSecret === null ? undefined : { clientSecret },
    );
  }

  // The charge says whether the money was returned.
  const pageInFull = { expand: ['payment_intent.latest_charge'] };

  const readPage = (id: string) => ask(() => stripe.checkout.sessions.retrieve(id, pageInFull));

  const readForm = (id: string) =>
    ask(() => stripe.paymentIntents.retrieve(id, { expand: ['latest_charge'] }));

  /** Cancels a PaymentIntent; reads it where Stripe would not. */
  async function endForm(id: string): Promise<Asked<Stripe.PaymentIntent>> {
    const ended = await ask(() => stripe.paymentIntents.cancel(id, { cancellation_reason: 'abandoned' }));
    if ('value' in ended || !ended.failure.isRefusal) return ended;
    return readForm(id);
  }

  /** Reads first: Stripe would cancel what is to be paid by a voucher, too, though the customer may have paid it by now. */
  async function closeForm(id: string): Promise<Look> {
    const look = judged(await readForm(id), judgeForm);
    return look.verdict === 'open' ? judged(await endForm(id), judgeForm) : look;
  }

  async function closePage(id: string): Promise<Look> {
    const expired = await ask(() => stripe.checkout.sessions.expire(id, pageInFull));
    // Stripe refuses where the page is not open any more.
    const asked = 'failure' in expired && expired.failure.isRefusal ? await readPage(id) : expired;
    if ('failure' in asked) return judged(asked, judgePage);
    const { value: page } = asked;
    const intent = page.payment_intent;
    // Who was sent to their bank when the page was expired could still come back with the money.
    if (page.status !== 'expired' || intent === null || typeof intent === 'string' || !isUnended(intent)) {
      return judgePage(page);
    }
    return judged(await endForm(intent.id), (ended) => judgePage({ ...page, payment_intent: ended }));
  }

  async function findRefund(refund: RefundToSend): Promise<RefundAnswer | { readonly state: 'none' }> {
    const asked = await ask(async () => {
      const ours: Stripe.Refund[] = [];
      const all = stripe.refunds.list({ payment_intent: refund.providerPaymentId, limit: 100 });
      for await (const one of all) if (refundIn(one.metadata ?? {}) === refund.refundId) ours.push(one);
      return ours;
    });
    if ('failure' in asked) return { state: 'unknown', ...unsaid(asked.failure) };
    // The newest first: after one that failed another may have been sent under the same id.
    const [newest] = asked.value;
    return newest === undefined ? { state: 'none' } : judgeRefund(newest);
  }

  return {
    name: 'stripe',
    idempotencyWindowMs,

    async open(attempt) {
      const counted = toStripe(attempt.amount, attempt.currency);
      if ('refusal' in counted) return { outcome: 'refused', reason: counted.refusal };
      return attempt.handOff === 'url' ? openPage(attempt, counted) : openForm(attempt, counted);
    },

    async close({ providerAttemptId: id }) {
      const look = await (isPage(id) ? closePage(id) : closeForm(id));
      return look.verdict === 'open'
        ? { verdict: 'unknown', reason: `Stripe did not close ${id}.`, isProviderWell: true }
        : look;
    },

    async look({ providerAttemptId: id }) {
      return isPage(id) ? judged(await readPage(id), judgePage) : judged(await readForm(id), judgeForm);
    },

    async refund(refund) {
      const counted = toStripe(refund.amount, refund.currency);
      if ('refusal' in counted) return { state: 'refused', reason: counted.refusal };
      const asked = await askOnce(
        refund.refundId,
        (once) =>
          stripe.refunds.create(
            {
              payment_intent: refund.providerPaymentId,
              // Not what is left of it: where a person has returned a part, Stripe refuses, and a person must look.
              amount: counted.amount,
              metadata: refundMetadata(refund),
            },
            once,
          ),
        async ({ id }) => {
          const today = await ask(() => stripe.refunds.retrieve(id));
          return 'value' in today && judgeRefund(today.value).state === 'refused' ? 'spent' : today;
        },
      );
      if ('value' in asked) return judgeRefund(asked.value);
      if (!asked.failure.isRefusal) return { state: 'unknown', ...unsaid(asked.failure) };
      // Refused because it was made before, perhaps, under a key that Stripe has forgotten.
      const found = await findRefund(refund);
      return found.state === 'none' ? { state: 'refused', reason: asked.failure.reason } : found;
    },

    findRefund,

    readWebhook: (webhook) => readWebhook(webhook, webhookSecret, now()),
  };
}

function isPage(providerAttemptId: string): boolean {
  return providerAttemptId.startsWith('cs_');
}

function opened<Value extends { readonly id: string }>(
  asked: Asked<Value>,
  handOffOf: (value: Value) => HandOff | undefined,
): OpenAnswer {
  if ('failure' in asked) {
    const { failure } = asked;
    return failure.isRefusal
      ? { outcome: 'refused', reason: failure.reason }
      : { outcome: 'unknown', ...unsaid(failure) };
  }
  const { id } = asked.value;
  const handOff = handOffOf(asked.value);
  return handOff === undefined
    ? { outcome: 'unknown', reason: `Stripe gave nothing to pay ${id} with.`, isProviderWell: true }
    : { outcome: 'opened', providerAttemptId: id, handOff };
}

function judged<Value>(asked: Asked<Value>, judge: (value: Value) => Look): Look {
  return 'failure' in asked ? { verdict: 'unknown', ...unsaid(asked.failure) } : judge(asked.value);
}

function addressOf(apiUrl: string) {
  const { protocol, hostname, port } = new URL(apiUrl);
  const isPlain = protocol === 'http:';
  return {
    protocol: isPlain ? 'http' : 'https',
    host: hostname,
    port: port === '' ? (isPlain ? 80 : 443) : Number(port),
  } as const;
}
