/** An order as the API shows it. Instants are ISO 8601, money is minor units. */
export interface Order {
  readonly id: string;
  readonly reference: string | null;
  readonly channel: string;
  readonly paymentMethod: string;
  readonly status: 'pending_payment' | 'paid' | 'cancelled';
  readonly cancelReason: 'payment_timeout' | 'customer' | 'merchant' | null;
  readonly currency: string;
  readonly amount: number;
  readonly items: readonly OrderItem[];
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly createdAt: string;
  /** Null: it waits for ever. */
  readonly deadlineAt: string | null;
  /** 0 when overdue or settled; null where there is no deadline. */
  readonly remainingMs: number | null;
  readonly paidAt: string | null;
  readonly cancelledAt: string | null;
}

/** One line of an order. */
export interface OrderItem {
  readonly sku: string;
  readonly quantity: number;
  readonly unitAmount: number;
}

/** What a shop sends to place an order. */
export interface Checkout {
  readonly reference?: string;
  readonly channel?: string;
  readonly paymentMethod?: string;
  readonly currency: string;
  readonly items: readonly OrderItem[];
  readonly paymentWindowMs?: number;
  readonly metadata?: Readonly<Record<string, unknown>>;
}

/** A payment that a shop reports. */
export interface PaymentReport {
  readonly provider: string;
  readonly providerPaymentId: string;
  readonly amount: number;
  readonly currency: string;
}

/** Money that was reported. */
export interface Payment extends PaymentReport {
  readonly id: string;
  /** Null: there is no such order. */
  readonly orderId: string | null;
  readonly outcome: 'paid' | 'duplicate' | 'late' | 'amount_mismatch' | 'orderless';
  /** Whether the provider itself vouched for it. */
  readonly verified: boolean;
  readonly recordedAt: string;
  /** Since when a person must decide about it, and why; null where nobody must. */
  readonly listedAt: string | null;
  readonly listedFor:
    | 'unverified'
    | 'policy'
    | 'orderless'
    | 'restated'
    | 'conflict'
    | 'refund_failed'
    | null;
  /** What a person decided about it, when, who it was, and why. */
  readonly resolution: 'refund' | 'accept' | 'dismiss' | null;
  readonly resolvedAt: string | null;
  readonly resolvedBy: string | null;
  readonly note: string | null;
}

/** The way of a payment back to who paid it. */
export interface Refund {
  readonly id: string;
  readonly state: 'due' | 'sent' | 'confirmed' | 'failed';
  readonly providerRefundId: string | null;
  /** `policy`, or who decided it. */
  readonly actor: string;
  readonly dueAt: string;
  readonly sentAt: string | null;
  readonly confirmedAt: string | null;
  readonly failedAt: string | null;
  readonly tryCount: number;
  readonly lastReason: string | null;
}

/** A payment on the work list, or one about which somebody decided. */
export interface WorkItem extends Payment {
  readonly refund: Refund | null;
}

/** One way for a customer to pay one order. `opening` and `open` may still bring money. */
export interface PaymentAttempt {
  readonly id: string;
  readonly orderId: string;
  readonly provider: string;
  readonly state: 'opening' | 'open' | 'closed' | 'paid' | 'refused';
  readonly providerAttemptId: string | null;
  /** What the customer needs: a page to go to, a secret for the provider's form, or something to read. */
  readonly url: string | null;
  readonly clientSecret: string | null;
  readonly instructions: string | null;
  /** The deadline when it was opened; null: there was none. */
  readonly payBy: string | null;
  readonly createdAt: string;
  readonly endedAt: string | null;
  /** What the provider said last while it had not ended, since when, and why. */
  readonly verdict: 'open' | 'processing' | 'unknown' | null;
  readonly verdictSince: string | null;
  readonly reason: string | null;
}

/** How a customer wishes to pay. */
export interface AttemptWish {
  readonly provider: string;
  /** What the shop needs for it: a page of the provider, or a secret for a form in its own. Default `url`. */
  readonly as?: 'url' | 'client_secret';
  /** Where the provider sends the customer afterwards. */
  readonly returnUrl?: string;
}

/** Which orders a freeze is of: those that fit all that is given. Nothing: everybody's. */
export interface FreezeScope {
  readonly channel?: string;
  readonly paymentMethod?: string;
  /** Orders that had a payment attempt with this provider. */
  readonly provider?: string;
}

/** A time in which the clock of pending orders stands still. */
export interface Freeze {
  readonly id: string;
  /** `brake`: expiry held by itself, because too much was overdue. */
  readonly kind: 'freeze' | 'brake';
  /** `thawing`: the deadlines are being moved. */
  readonly state: 'frozen' | 'thawing' | 'done';
  readonly scope: FreezeScope;
  readonly reason: string;
  readonly actor: string;
  readonly frozenAt: string;
  readonly thawingAt: string | null;
  readonly doneAt: string | null;
  /** Who thawed it, or released the brake. */
  readonly releasedBy: string | null;
  /** What each order got from the release of a brake on, ms. */
  readonly extendMs: number | null;
}

/** What a payment did. */
export interface PaymentResult {
  readonly outcome: 'paid' | 'already_recorded' | 'duplicate' | 'late' | 'amount_mismatch';
  readonly order: Order;
  readonly payment: Payment;
  /** Where it goes back. */
  readonly refund?: Refund;
}

/** What there is of a SKU. */
export interface Stock {
  readonly sku: string;
  readonly onHand: number | null;
  readonly held: number;
  readonly available: number | null;
}

/** An order's story and the job behind its deadline. */
export interface Timeline {
  readonly events: readonly {
    readonly id: number;
    readonly type: string;
    readonly at: string;
    readonly actor: string;
    readonly data: Readonly<Record<string, unknown>>;
  }[];
  readonly job: { readonly state: string; readonly firesAt: string | null } | null;
}

/** Which page of a list. */
export interface PageQuery {
  /** The `nextCursor` of the page before. */
  readonly cursor?: string;
  /** 1 to 200; default 50. */
  readonly limit?: number;
}

/** Which orders to list. */
export interface OrderQuery extends PageQuery {
  readonly status?: Order['status'];
  readonly channel?: string;
  readonly reference?: string;
}

/** A part of a list. It may be short, even empty, before the end: `nextCursor` is null behind the last one only. */
export interface Page<Item> {
  readonly data: readonly Item[];
  readonly nextCursor: string | null;
}

/** What is wrong with one field of a request. */
export interface FieldError {
  /** Path of the field, for example `items[0].quantity`; empty for the body itself. */
  readonly field: string;
  readonly message: string;
}
