/** Stripe's objects, with the fields that matter here, as they are on the wire. */

export type Metadata = Readonly<Record<string, string>>;

/** A Checkout Session: Stripe's own payment page. */
export interface Page {
  readonly id: string;
  readonly object: 'checkout.session';
  readonly amount_total: number;
  readonly cancel_url: string | null;
  readonly client_reference_id: string | null;
  readonly created: number;
  readonly currency: string;
  readonly expires_at: number;
  readonly livemode: false;
  readonly metadata: Metadata;
  readonly mode: 'payment';
  /** Made when the customer first tries to pay. */
  payment_intent: string | null;
  payment_status: 'paid' | 'unpaid';
  status: 'open' | 'complete' | 'expired';
  readonly success_url: string;
  readonly ui_mode: 'hosted_page';
  /** While it is open. */
  url: string | null;
}

/** A PaymentIntent. */
export interface Intent {
  readonly id: string;
  readonly object: 'payment_intent';
  readonly amount: number;
  amount_received: number;
  canceled_at: number | null;
  cancellation_reason: string | null;
  readonly capture_method: 'automatic_async';
  readonly client_secret: string;
  readonly created: number;
  readonly currency: string;
  readonly description: string | null;
  last_payment_error: object | null;
  latest_charge: string | null;
  readonly livemode: false;
  readonly metadata: Metadata;
  next_action: object | null;
  status:
    | 'canceled'
    | 'processing'
    | 'requires_action'
    | 'requires_capture'
    | 'requires_payment_method'
    | 'succeeded';
}

/** A refund. */
export interface Refund {
  readonly id: string;
  readonly object: 'refund';
  readonly amount: number;
  readonly charge: string;
  readonly created: number;
  readonly currency: string;
  failure_reason?: string;
  readonly metadata: Metadata;
  readonly payment_intent: string;
  readonly reason: null;
  status: 'pending' | 'succeeded' | 'failed' | 'canceled';
}

/** What a call is answered with. */
export interface Answer {
  readonly status: number;
  readonly body: object;
  /** Whether the call was carried out, well or not: then its answer is what the idempotency key stands for. */
  readonly isKept: boolean;
}

/** An error as Stripe words it. `isKept`: it came up while the call was carried out. */
export function refusal(
  status: number,
  message: string,
  more: {
    readonly type?: 'api_error' | 'idempotency_error' | 'invalid_request_error';
    readonly code?: string;
    readonly param?: string;
    readonly isKept?: boolean;
  } = {},
): Answer {
  const { type = 'invalid_request_error', code, param, isKept = false } = more;
  return {
    status,
    body: { error: { ...(code && { code }), message, ...(param && { param }), type } },
    isKept,
  };
}

/** A PaymentIntent, refund or page that is not there. */
export function missing(what: string, id: string, param: string): Answer {
  return refusal(404, `No such ${what}: '${id}'`, { code: 'resource_missing', param });
}
