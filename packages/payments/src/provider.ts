/**
 * The port to payment providers. An adapter speaks one provider's language and says what it learned in these words; it
 * decides nothing and stores nothing.
 *
 * Answers are values: a provider that is slow, away or wrong is `unknown`, never an exception. Whoever asks tries again.
 */
export interface PaymentProvider {
  /** How attempts, payments and `/hooks/{provider}` name it. */
  readonly name: string;
  /**
   * How long the provider honours an idempotency key, ms. A refund that was not answered for longer is looked up before
   * it is sent again.
   */
  readonly idempotencyWindowMs: number;
  /** Lets a customer pay. Called again with the same attempt it answers with the same attempt at the provider. */
  open(attempt: AttemptToOpen): Promise<OpenAnswer>;
  /**
   * Sees to it that nobody can pay by this attempt any more, and says what became of it. `closed` is a promise: no money
   * can come of it.
   */
  close(attempt: OpenAttempt): Promise<Verdict>;
  /** Says what became of an attempt, without closing it. */
  look(attempt: OpenAttempt): Promise<Verdict | { readonly verdict: 'open' }>;
  /** Returns the whole capture. Called again with the same refund it returns nothing twice. */
  refund(refund: RefundToSend): Promise<RefundAnswer>;
  /** Finds a refund that was sent before, by our id. `none`: it never arrived. */
  findRefund(refund: RefundToSend): Promise<RefundAnswer | { readonly state: 'none' }>;
  /** Checks a notice of the provider and says what it tells. The body must be as it came, to the byte. */
  readWebhook(webhook: Webhook): WebhookAnswer;
}

/** An attempt as the provider is told of it. */
export interface AttemptToOpen {
  /** Ours, UUIDv7: the idempotency key of the call, and in the attempt's metadata. */
  readonly attemptId: string;
  readonly orderId: string;
  /** Minor units. */
  readonly amount: number;
  /** ISO 4217. */
  readonly currency: string;
  /** Until when the customer may pay; null: there is no deadline. */
  readonly payBy: Date | null;
  /** What the customer is to get: a page to go to, or a secret for a form in the shop's own page. */
  readonly handOff: 'url' | 'client_secret';
  /** Where the provider sends the customer afterwards; null: nowhere. */
  readonly returnUrl: string | null;
  /** What the customer reads, for example `Order 1042`. */
  readonly description: string;
}

/** What the customer needs to pay: `url` to go to, `clientSecret` for the provider's form, or `instructions` to read. */
export interface HandOff {
  readonly url?: string;
  readonly clientSecret?: string;
  readonly instructions?: string;
}

/** Why a provider did not say. */
interface Unsaid {
  readonly reason: string;
  /**
   * The provider is well: it answered, and only this attempt or refund is unclear. A circuit breaker stays closed then.
   * Default: false.
   */
  readonly isProviderWell?: boolean;
}

/** What became of opening an attempt. `refused`: trying again would not help. `unknown`: it may be open. */
export type OpenAnswer =
  | { readonly outcome: 'opened'; readonly providerAttemptId: string; readonly handOff: HandOff }
  | { readonly outcome: 'refused'; readonly reason: string }
  | ({ readonly outcome: 'unknown' } & Unsaid);

/** An attempt that was opened. */
export interface OpenAttempt {
  readonly attemptId: string;
  readonly orderId: string;
  readonly providerAttemptId: string;
}

/** Money that the provider took. */
export interface Capture {
  /** One for each capture, whichever notice tells of it. */
  readonly providerPaymentId: string;
  /** Minor units. */
  readonly amount: number;
  /** ISO 4217, capitals. */
  readonly currency: string;
}

/**
 * What the provider says of an attempt. `processing`: the money is on its way, for days perhaps. `unknown`: it did not
 * say, or not in words that the adapter knows.
 */
export type Verdict =
  | { readonly verdict: 'closed' }
  | { readonly verdict: 'paid'; readonly capture: Capture }
  | { readonly verdict: 'processing' }
  | ({ readonly verdict: 'unknown' } & Unsaid);

/** A whole capture that is to be returned. */
export interface RefundToSend {
  /** Ours, UUIDv7: the idempotency key of the call, and in the refund's metadata. */
  readonly refundId: string;
  readonly orderId: string | null;
  readonly providerPaymentId: string;
  /** Minor units. */
  readonly amount: number;
  readonly currency: string;
}

/**
 * What became of a refund. `sent`: the provider took it and will tell how it ends. `refused`: trying again would not
 * help, a person must look. `unknown`: it may have been taken.
 */
export type RefundAnswer =
  | { readonly state: 'sent' | 'confirmed'; readonly providerRefundId: string }
  | { readonly state: 'refused'; readonly reason: string }
  | ({ readonly state: 'unknown' } & Unsaid);

/** A call of `/hooks/{provider}`. */
export interface Webhook {
  readonly body: Buffer;
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string | undefined>>;
}

/**
 * What a webhook is. `forged`: it has no signature, or another one than the body. `stale`: it was signed too long ago.
 * `malformed`: it is signed, and makes no sense.
 */
export type WebhookAnswer =
  | { readonly outcome: 'genuine'; readonly notices: readonly Notice[] }
  | { readonly outcome: 'forged' | 'stale' | 'malformed'; readonly reason: string };

/** Which attempt a notice is about, as far as it says. */
interface AttemptNamed {
  readonly attemptId: string | null;
  readonly providerAttemptId: string | null;
  readonly orderId: string | null;
}

/** Which refund a notice is about, as far as it says. */
interface RefundNamed {
  readonly refundId: string | null;
  readonly providerRefundId: string;
}

/** What a provider tells. Notices come late, twice, out of order, or not at all. */
export type Notice =
  | ({ readonly kind: 'paid'; readonly capture: Capture } & AttemptNamed)
  | ({ readonly kind: 'closed' | 'processing' } & AttemptNamed)
  | ({ readonly kind: 'refund_confirmed' } & RefundNamed)
  | ({ readonly kind: 'refund_failed'; readonly reason: string } & RefundNamed);
