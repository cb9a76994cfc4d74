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

/**
 * A call was answered, but not with what was asked for. `code` is stable; `message` is for people. An answer that is not
 * the API's own, a proxy's error page for example, has the code `unknown`.
 */
export class LapseError extends Error {
  readonly code: string;
  readonly status: number;
  /** The fields that are wrong, where `code` is `invalid_request`. */
  readonly errors: readonly FieldError[];
  /** The SKUs that `out_of_stock` and `unknown_sku` are about. */
  readonly skus: readonly string[];

  constructor(
    status: number,
    code: string,
    message: string,
    details: { readonly errors?: readonly FieldError[]; readonly skus?: readonly string[] } = {},
  ) {
    super(message);
    this.name = 'LapseError';
    this.status = status;
    this.code = code;
    this.errors = details.errors ?? [];
    this.skus = details.skus ?? [];
  }
}

/**
 * A call was not answered, in time or at all: whether it was done is not known. Repeat it; with the same idempotency key
 * it is done once. Not a LapseError, whose status would have to be made up.
 */
export class LapseUnanswered extends Error {
  readonly code: 'timeout' | 'unreachable';

  constructor(code: LapseUnanswered['code'], message: string, options: ErrorOptions) {
    super(message, options);
    this.name = 'LapseUnanswered';
    this.code = code;
  }
}

/**
 * A typed client of the HTTP API, v1. Every call rejects with LapseError where the answer is a refusal, with
 * LapseUnanswered where there is none, and with RangeError, before anything is sent, for an id or SKU that no path can
 * hold: an empty one, `.` and `..`.
 */
export interface LapseClient {
  checkout(checkout: Checkout, options?: { idempotencyKey?: string }): Promise<Order>;
  pay(orderId: string, payment: PaymentReport, options?: { idempotencyKey?: string }): Promise<PaymentResult>;
  cancel(orderId: string, reason?: 'customer' | 'merchant'): Promise<Order>;
  extend(orderId: string, to: { byMs: number } | { deadlineAt: string }): Promise<Order>;
  order(orderId: string): Promise<Order>;
  /** Newest first. */
  orders(query?: OrderQuery): Promise<Page<Order>>;
  timeline(orderId: string): Promise<Timeline>;
  setStock(sku: string, onHand: number | null): Promise<Stock>;
  adjustStock(sku: string, by: number): Promise<Stock>;
  stock(sku: string): Promise<Stock>;
  /** Every SKU, in their order. */
  stocks(query?: PageQuery): Promise<Page<Stock>>;
  /** Payments that a person must decide about, longest waiting first. */
  workList(query?: PageQuery): Promise<Page<WorkItem>>;
  /** Decides about a payment on the work list: it goes back, pays its order, or was seen to elsewhere. */
  refundPayment(paymentId: string, note?: string): Promise<WorkItem>;
  acceptPayment(paymentId: string, note?: string): Promise<WorkItem>;
  dismissPayment(paymentId: string, note: string): Promise<WorkItem>;
  /** Opens a way to pay; where one is open at this provider, answers that. */
  openAttempt(orderId: string, wish: AttemptWish): Promise<PaymentAttempt>;
  /** Oldest first. */
  attempts(orderId: string): Promise<readonly PaymentAttempt[]>;
  /** Stops the clock of pending orders: none in scope is cancelled for time until the thaw. */
  freeze(freeze: { reason: string; scope?: FreezeScope }): Promise<Freeze>;
  /** Lets the clock go on: every deadline moves by the time it stood still. */
  thaw(freezeId: string): Promise<Freeze>;
  /** The newest freezes and brakes, and all that are not done; newest first. */
  freezes(): Promise<readonly Freeze[]>;
}

/**
 * Creates a client.
 *
 * @param options.baseUrl where the API listens, for example `http://127.0.0.1:3000` or `https://shop.example/lapse`
 * @param options.apiKey sent as the bearer token
 * @param options.timeoutMs how long an answer may take to its last byte, ms. Default 30,000
 * @throws TypeError where `baseUrl` is no URL
 */
export function createClient(options: { baseUrl: string; apiKey: string; timeoutMs?: number }): LapseClient {
  const { apiKey, timeoutMs = 30_000 } = options;
  const { origin, pathname } = new URL(options.baseUrl);
  const baseUrl = origin + pathname.replace(/\/+$/, '');

  const call = async <Answer>(
    method: string,
    path: string,
    body?: unknown,
    idempotencyKey?: string,
  ): Promise<Answer> => {
    const { status, text } = await exchange(baseUrl + path, timeoutMs, {
      method,
      headers: {
        Authorization: `Bearer ${apiKey}`,
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...(idempotencyKey === undefined ? {} : { 'Idempotency-Key': idempotencyKey }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      // A POST that is redirected becomes a GET: a checkout would be answered with a list of orders.
      redirect: 'manual',
    });
    const answer = parseJson(text);
    if (status < 200 || status > 299 || answer === undefined) throw refusal(status, answer);
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the contract says what a 2xx of this call carries
    return answer as Answer;
  };

  return {
    checkout: (checkout, { idempotencyKey } = {}) => call('POST', '/v1/orders', checkout, idempotencyKey),
    pay: async (id, payment, { idempotencyKey } = {}) =>
      call('POST', `${orderPath(id)}/payments`, payment, idempotencyKey),
    cancel: async (id, reason = 'customer') => call('POST', `${orderPath(id)}/cancel`, { reason }),
    extend: async (id, to) => call('POST', `${orderPath(id)}/extend`, to),
    order: async (id) => call('GET', orderPath(id)),
    orders: (query) => call('GET', `/v1/orders${search(query)}`),
    timeline: async (id) => call('GET', `${orderPath(id)}/timeline`),
    setStock: async (sku, onHand) => call('PUT', stockPath(sku), { onHand }),
    adjustStock: async (sku, by) => call('POST', `${stockPath(sku)}/adjust`, { by }),
    stock: async (sku) => call('GET', stockPath(sku)),
    stocks: (query) => call('GET', `/v1/stock${search(query)}`),
    workList: (query) => call('GET', `${workList}${search(query)}`),
    refundPayment: async (id, note) => call('POST', `${workPath(id)}/refund`, { note: note ?? null }),
    acceptPayment: async (id, note) => call('POST', `${workPath(id)}/accept`, { note: note ?? null }),
    dismissPayment: async (id, note) => call('POST', `${workPath(id)}/dismiss`, { note }),
    openAttempt: async (id, wish) => call('POST', `${orderPath(id)}/payment-attempts`, wish),
    attempts: async (id) => {
      const { data } = await call<Page<PaymentAttempt>>('GET', `${orderPath(id)}/payment-attempts`);
      return data;
    },
    freeze: (freeze) => call('POST', freezesPath, freeze),
    thaw: async (id) => call('POST', `${freezesPath}/${segment(id)}/thaw`),
    freezes: async () => (await call<Pick<Page<Freeze>, 'data'>>('GET', freezesPath)).data,
  };
}

/** Sends a request and reads all of its answer. */
async function exchange(
  url: string,
  timeoutMs: number,
  request: RequestInit,
): Promise<{ status: number; text: string }> {
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    const response = await fetch(url, { ...request, signal });
    return { status: response.status, text: await response.text() };
  } catch (error) {
    if (signal.aborted) {
      throw new LapseUnanswered('timeout', `No answer in ${timeoutMs} ms from ${url}.`, { cause: error });
    }
    // What fetch says is "fetch failed"; the reason, with the code of the system, is behind it.
    const cause: unknown = error instanceof Error ? (error.cause ?? error) : error;
    throw new LapseUnanswered('unreachable', `No answer from ${url}: ${String(cause)}`, { cause });
  }
}

function orderPath(id: string): string {
  return `/v1/orders/${segment(id)}`;
}

function stockPath(sku: string): string {
  return `/v1/stock/${segment(sku)}`;
}

const workList = '/v1/money/work';
const freezesPath = '/v1/freezes';

function workPath(paymentId: string): string {
  return `${workList}/${segment(paymentId)}`;
}

/** A part of a path. URLs are normalized on their way: these would name the list, or what is above it. */
function segment(name: string): string {
  if (['', '.', '..'].includes(name)) throw new RangeError(`"${name}" is no id or SKU that a path can hold`);
  return encodeURIComponent(name);
}

function search(query: object = {}): string {
  const given = Object.entries(query).flatMap(([name, value]): [string, string][] =>
    value === undefined ? [] : [[name, String(value)]],
  );
  return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`;
}

/** Undefined where it is no JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refusal(status: number, answer: unknown): LapseError {
  const code = textIn(answer, 'code') ?? 'unknown';
  const detail = textIn(answer, 'detail') ?? `The answer, with status ${status}, is not one of the API.`;
  const errors = listIn(answer, 'errors').flatMap((error) => {
    const [field, message] = [textIn(error, 'field'), textIn(error, 'message')];
    return field === undefined || message === undefined ? [] : [{ field, message }];
  });
  const skus = listIn(answer, 'skus').filter((sku) => typeof sku === 'string');
  return new LapseError(status, code, detail, { errors, skus });
}

function valueIn(answer: unknown, name: string): unknown {
  return typeof answer === 'object' && answer !== null ? Reflect.get(answer, name) : undefined;
}

function textIn(answer: unknown, name: string): string | undefined {
  const value = valueIn(answer, name);
  return typeof value === 'string' ? value : undefined;
}

function listIn(answer: unknown, name: string): readonly unknown[] {
  const value = valueIn(answer, name);
  return Array.isArray(value) ? value : [];
}
