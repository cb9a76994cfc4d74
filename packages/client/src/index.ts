import type {
  AttemptWish,
  Checkout,
  FieldError,
  Freeze,
  FreezeScope,
  Order,
  OrderQuery,
  Page,
  PageQuery,
  PaymentAttempt,
  PaymentReport,
  PaymentResult,
  Stock,
  Timeline,
  WorkItem,
} from './shapes.ts';

export type * from './shapes.ts';

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
