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
  readonly deadlineAt: string;
  readonly remainingMs: number;
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

/** What a payment did. */
export interface PaymentResult {
  readonly outcome: 'paid' | 'already_recorded' | 'duplicate' | 'late' | 'amount_mismatch';
  readonly order: Order;
  readonly payment: { readonly id: string; readonly outcome: string; readonly recordedAt: string };
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

/** Which orders to list. */
export interface OrderQuery {
  readonly status?: Order['status'];
  readonly channel?: string;
  readonly reference?: string;
  readonly cursor?: string;
  readonly limit?: number;
}

/** The API refused a request. `code` is stable; `message` is for people. */
export class LapseError extends Error {
  readonly code: string;
  readonly status: number;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.name = 'LapseError';
    this.status = status;
    this.code = code;
  }
}

/** A typed client of the HTTP API, v1. Every call throws LapseError for a refusal, TypeError where nobody answers. */
export interface LapseClient {
  checkout(checkout: Checkout, options?: { idempotencyKey?: string }): Promise<Order>;
  pay(orderId: string, payment: PaymentReport, options?: { idempotencyKey?: string }): Promise<PaymentResult>;
  cancel(orderId: string, reason?: 'customer' | 'merchant'): Promise<Order>;
  extend(orderId: string, to: { byMs: number } | { deadlineAt: string }): Promise<Order>;
  order(orderId: string): Promise<Order>;
  orders(
    query?: OrderQuery,
  ): Promise<{ readonly data: readonly Order[]; readonly nextCursor: string | null }>;
  timeline(orderId: string): Promise<Timeline>;
  setStock(sku: string, onHand: number | null): Promise<Stock>;
  adjustStock(sku: string, by: number): Promise<Stock>;
  stock(sku: string): Promise<Stock>;
}

/**
 * Creates a client.
 *
 * @param options.baseUrl where the API listens, for example `http://127.0.0.1:3000`
 * @param options.apiKey sent as the bearer token
 */
export function createClient(options: { baseUrl: string; apiKey: string }): LapseClient {
  const call = async <Answer>(
    method: string,
    path: string,
    body?: unknown,
    idempotencyKey?: string,
  ): Promise<Answer> => {
    const response = await fetch(new URL(path, options.baseUrl), {
      method,
      headers: {
        Authorization: `Bearer ${options.apiKey}`,
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...(idempotencyKey === undefined ? {} : { 'Idempotency-Key': idempotencyKey }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const answer: unknown = await response.json();
    if (!response.ok) throw refusal(response.status, answer);
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the contract says what a 2xx of this call carries
    return answer as Answer;
  };

  return {
    checkout: (checkout, { idempotencyKey } = {}) => call('POST', '/v1/orders', checkout, idempotencyKey),
    pay: (id, payment, { idempotencyKey } = {}) =>
      call('POST', orderPath(id, '/payments'), payment, idempotencyKey),
    cancel: (id, reason = 'customer') => call('POST', orderPath(id, '/cancel'), { reason }),
    extend: (id, to) => call('POST', orderPath(id, '/extend'), to),
    order: (id) => call('GET', orderPath(id)),
    orders(query = {}) {
      const search = new URLSearchParams();
      for (const [name, value] of Object.entries(query)) search.set(name, String(value));
      return call('GET', `/v1/orders?${search.toString()}`);
    },
    timeline: (id) => call('GET', orderPath(id, '/timeline')),
    setStock: (sku, onHand) => call('PUT', stockPath(sku), { onHand }),
    adjustStock: (sku, by) => call('POST', stockPath(sku, '/adjust'), { by }),
    stock: (sku) => call('GET', stockPath(sku)),
  };
}

function orderPath(id: string, rest = ''): string {
  return `/v1/orders/${encodeURIComponent(id)}${rest}`;
}

function stockPath(sku: string, rest = ''): string {
  return `/v1/stock/${encodeURIComponent(sku)}${rest}`;
}

function refusal(status: number, answer: unknown): LapseError {
  const field = (name: string): string | undefined => {
    if (typeof answer !== 'object' || answer === null) return undefined;
    const value: unknown = Reflect.get(answer, name);
    return typeof value === 'string' ? value : undefined;
  };
  return new LapseError(status, field('code') ?? 'unknown', field('detail') ?? `the API answered ${status}`);
}
