import { once } from 'node:events';
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { connect } from 'node:net';
import { gzipSync } from 'node:zlib';

import type { Order, Stock, Timeline } from '@lapse/client';
import { waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { apiKey, startFleet, type Fleet } from './fleet.ts';

type Headers = Readonly<Record<string, string | string[]>>;

/** What is sent: an object as JSON, a string or bytes as they are. */
interface Sent {
  readonly method: string;
  /** `{pending}`, `{paid}` and `{cancelled}` stand for the ids of three orders. */
  readonly path: string;
  readonly headers?: Headers;
  readonly body?: unknown;
}

/** The bodies of all answers in one: each test reads what its own must have. */
interface Body extends Order, Stock, Timeline {
  readonly code: string;
  readonly detail: string;
  readonly errors?: readonly { readonly field: string; readonly message: string }[];
  readonly outcome: string;
  readonly order: Order;
  readonly payment: object;
  readonly data: readonly (Order &
    Stock & { readonly listedAt: string; readonly providerPaymentId: string })[];
  readonly nextCursor: string | null;
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly json: Body;
}

/** A row of the tables below. `field` is the one the answer must name. */
type Wrong = readonly [name: string, sent: Sent, status: number, code: string, field?: string | undefined];

let fleet: Fleet;
let ids: Readonly<Record<'pending' | 'paid' | 'cancelled', string>>;

const mug = { sku: 'mug', quantity: 1, unitAmount: 1250 };
const checkout = { currency: 'EUR', items: [mug] };
const payment = { provider: 'shop', providerPaymentId: 'p-1', amount: 1250, currency: 'EUR' };

beforeAll(async () => {
  fleet = await startFleet({ workerCount: 1 });
  const { client } = fleet;
  await client.setStock('mug', 100);
  await client.setStock('poster', 5);
  await client.setStock('uncounted', null);
  const [pending, paid, cancelled] = await Promise.all([1, 2, 3].map(() => client.checkout(checkout)));
  if (pending === undefined || paid === undefined || cancelled === undefined) throw new Error('no orders');
  ids = { pending: pending.id, paid: paid.id, cancelled: cancelled.id };
  await client.pay(paid.id, { ...payment, providerPaymentId: 'the-one' });
  await client.cancel(cancelled.id);
});

afterAll(async () => {
  await fleet?.expectInvariants();
  await fleet?.stop();
});

/** Sends exactly what it is told; `fetch` would mend paths and refuse headers. */
function send({ method, path, headers = {}, body }: Sent): Promise<Answer> {
  const url = new URL(fleet.apis[0]?.url ?? '');
  const text = typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body);
  const bytes = text === undefined ? undefined : Buffer.from(text);
  const filled = path.replace(/\{(pending|paid|cancelled)\}/, (_, which: keyof typeof ids) => ids[which]);
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      {
        host: url.hostname,
        port: url.port,
        method,
        path: filled,
        headers: {
          Authorization: `Bearer ${apiKey}`,
          ...(bytes === undefined
            ? {}
            : { 'Content-Type': 'application/json', 'Content-Length': bytes.length }),
          ...headers,
        },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const answered = Buffer.concat(chunks).toString();
          const isJson = /json/.test(response.headers['content-type'] ?? '') && answered !== '';
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            text: answered,
            json: (isJson ? JSON.parse(answered) : undefined) as Body,
          });
        });
      },
    );
    request.on('error', reject);
    request.end(bytes);
  });
}

/** A digest of every row there is. */
async function everything(): Promise<unknown> {
  const { rows } = await fleet.database.query(`
    select
      (select count(*) || md5(string_agg(o::text, '' order by o.id)) from orders o) as orders,
      (select count(*) || md5(string_agg((s.sku, s.on_hand, s.held)::text, '' order by s.sku)) from stock s) as stock,
      (select count(*) || md5(string_agg(p::text, '' order by p.id)) from payments p) as payments,
      (select count(*) || md5(string_agg(e::text, '' order by e.seq)) from events e) as events,
      (select count(*) from idempotency_keys) as keys,
      (select count(*) from freezes) as freezes`);
  return rows[0];
}

/** Tests that each is refused as it says, in the form of the contract, and that nothing was stored. */
function refuses(table: readonly Wrong[]): void {
  for (const [name, sent, status, code, field] of table) {
    test(name, async () => {
      const before = await everything();
      const answer = await send(sent);
      expect(answer).toMatchObject({ status, json: { code, status } });
      expectProblem(answer);
      const named = (answer.json.errors ?? []).map((error) => error.field);
      expect(named).toEqual(field === undefined ? [] : expect.arrayContaining([field]));
      expect(await everything()).toEqual(before);
    });
  }
}

function expectProblem({ status, headers, json }: Answer): void {
  expect(headers['content-type']).toBe('application/problem+json; charset=utf-8');
  expect(json).toMatchObject({
    type: `urn:lapse:problem:${json.code}`,
    title: expect.stringMatching(/^\S.*\S$/),
    status,
    detail: expect.stringMatching(/^\S[\s\S]*\S$/),
  });
}

const place = (changes: object): Sent => ({
  method: 'POST',
  path: '/v1/orders',
  body: { ...checkout, ...changes },
});
const placeItem = (changes: object): Sent => place({ items: [{ ...mug, ...changes }] });
const placeRaw = (body: string | Buffer, headers: Headers = {}): Sent => ({
  method: 'POST',
  path: '/v1/orders',
  headers,
  body,
});
const pay = (changes: object, id = '{pending}'): Sent => ({
  method: 'POST',
  path: `/v1/orders/${id}/payments`,
  body: { ...payment, ...changes },
});
const extend = (body: unknown, id = '{pending}'): Sent => ({
  method: 'POST',
  path: `/v1/orders/${id}/extend`,
  body,
});
const cancel = (body: unknown, id = '{pending}'): Sent => ({
  method: 'POST',
  path: `/v1/orders/${id}/cancel`,
  body,
});
const setStock = (body: unknown, sku = 'mug'): Sent => ({ method: 'PUT', path: `/v1/stock/${sku}`, body });
const adjust = (body: unknown, sku = 'mug'): Sent => ({
  method: 'POST',
  path: `/v1/stock/${sku}/adjust`,
  body,
});
const get = (path: string): Sent => ({ method: 'GET', path });

/** Every route behind the key. */
const routes: readonly (readonly [method: string, path: string])[] = [
  ['POST', '/v1/orders'],
  ['GET', '/v1/orders'],
  ['GET', '/v1/orders/{pending}'],
  ['GET', '/v1/orders/{pending}/timeline'],
  ['POST', '/v1/orders/{pending}/payments'],
  ['POST', '/v1/orders/{pending}/cancel'],
  ['POST', '/v1/orders/{pending}/extend'],
  ['GET', '/v1/money/work'],
  ['GET', '/v1/stock'],
  ['GET', '/v1/stock/mug'],
  ['PUT', '/v1/stock/mug'],
  ['POST', '/v1/stock/mug/adjust'],
];
const routesWithBody = routes.filter(([method]) => method !== 'GET');

const unknownId = '01890000-0000-7000-8000-000000000000';
const unauthorized = (name: string, sent: Sent): Wrong => [name, sent, 401, 'unauthorized'];
const invalid = (name: string, sent: Sent, field?: string): Wrong => [
  name,
  sent,
  400,
  'invalid_request',
  field,
];
const withHeader = (name: string, value: string | string[]): Headers => ({ [name]: value });

/** Nested `depth` objects deep. */
function nested(depth: number): object {
  return depth === 1 ? {} : { in: nested(depth - 1) };
}

describe('without the key', () => {
  refuses(
    routes.flatMap(([method, path]): Wrong[] => [
      unauthorized(`${method} ${path} is refused`, {
        method,
        path,
        headers: withHeader('Authorization', ''),
      }),
    ]),
  );
  const wrongKeys: readonly (readonly [string, string])[] = [
    ['another key', 'Bearer another-key-0123456789abcdef'],
    ['a prefix of the key', `Bearer ${apiKey.slice(0, -1)}`],
    ['the key and more', `Bearer ${apiKey}0`],
    ['the key in capitals', `Bearer ${apiKey.toUpperCase()}`],
    ['the key without its scheme', apiKey],
    ['the key under another scheme', `Basic ${apiKey}`],
    ['an empty key', 'Bearer '],
    ['two keys', `Bearer ${apiKey} ${apiKey}`],
    ['a key that is not ASCII', 'Bearer schlüssel-0123456789'],
  ];
  refuses([
    ...wrongKeys.map(([name, value]) =>
      unauthorized(`${name} opens nothing`, { ...place({}), headers: withHeader('Authorization', value) }),
    ),
    unauthorized('an unknown path says nothing', {
      ...get('/v1/nowhere'),
      headers: withHeader('Authorization', ''),
    }),
    unauthorized(
      'a body that is no JSON is not even read',
      placeRaw('{', withHeader('Authorization', 'Bearer wrong')),
    ),
    unauthorized(
      'a body that is too large is not even read',
      placeRaw('x'.repeat(200_000), withHeader('Authorization', 'Bearer wrong')),
    ),
  ]);

  test('the answer says how to send it', async () => {
    const { headers } = await send({ ...get('/v1/stock'), headers: { Authorization: '' } });
    expect(headers['www-authenticate']).toBe('Bearer');
  });

  test.each(['bearer', 'BEARER', 'bEaReR'])('the scheme may be written %s', async (scheme) => {
    const { status } = await send({ ...get('/v1/stock'), headers: { Authorization: `${scheme} ${apiKey}` } });
    expect(status).toBe(200);
  });
});

describe('a body', () => {
  refuses(
    routesWithBody.flatMap(([method, path]): Wrong[] => [
      invalid(`of ${method} ${path} that breaks off is refused`, { method, path, body: '{"a":' }),
      invalid(`of ${method} ${path} that is a list is refused`, { method, path, body: [] }, ''),
      invalid(`of ${method} ${path} that is a number is refused`, { method, path, body: '5' }),
      invalid(`of ${method} ${path} that is null is refused`, { method, path, body: 'null' }),
      invalid(`of ${method} ${path} in another type is refused`, {
        method,
        path,
        body: '{}',
        headers: withHeader('Content-Type', 'text/plain'),
      }),
      invalid(
        `of ${method} ${path} with an unknown field is refused`,
        { method, path, body: { surprise: 1 } },
        'surprise',
      ),
      invalid(
        `of ${method} ${path} that sets __proto__ is refused`,
        { method, path, body: '{"__proto__":{"polluted":true}}' },
        '__proto__',
      ),
      [
        `of ${method} ${path} over 128 KiB is refused`,
        { method, path, body: { padding: 'x'.repeat(128 * 1024) } },
        413,
        'payload_too_large',
      ],
    ]),
  );
  refuses(
    routesWithBody
      .filter(([, path]) => !path.endsWith('/cancel'))
      .map(([method, path]) => invalid(`of ${method} ${path} must be there`, { method, path })),
  );
  refuses([
    invalid('that is empty lacks its fields', placeRaw(''), 'items'),
    invalid(
      'in Latin-1 is refused',
      placeRaw('{}', withHeader('Content-Type', 'application/json; charset=latin1')),
    ),
    invalid('in an unknown coding is refused', placeRaw('{}', withHeader('Content-Encoding', 'rot13'))),
    invalid('that says gzip and is not is refused', placeRaw('{}', withHeader('Content-Encoding', 'gzip'))),
    [
      'that unpacks to more than 128 KiB is refused',
      placeRaw(gzipSync('x'.repeat(1_000_000)), withHeader('Content-Encoding', 'gzip')),
      413,
      'payload_too_large',
    ],
    invalid('of brackets without end is refused', placeRaw('['.repeat(100_000))),
    invalid(
      'nested deeper than a stack is refused',
      placeRaw(`${'['.repeat(60_000)}${']'.repeat(60_000)}`),
      '',
    ),
  ]);
});

describe('a checkout', () => {
  refuses([
    invalid('without a currency', place({ currency: undefined }), 'currency'),
    invalid('with a currency in small letters', place({ currency: 'eur' }), 'currency'),
    invalid('with an unknown currency', place({ currency: 'XQX' }), 'currency'),
    invalid('with a number as currency', place({ currency: 978 }), 'currency'),
    ...['ANG', 'BGN', 'CUC', 'HRK', 'SLL', 'ZWL'].map((currency) =>
      invalid(`with a currency that was withdrawn, ${currency}`, place({ currency }), 'currency'),
    ),
    invalid('with gold, which has no minor unit', place({ currency: 'XAU' }), 'currency'),
    invalid('without items', place({ items: undefined }), 'items'),
    invalid('with no item', place({ items: [] }), 'items'),
    invalid('with an object as items', place({ items: {} }), 'items'),
    invalid('with null as an item', place({ items: [null] }), 'items[0]'),
    invalid(
      'with 101 items',
      place({ items: Array.from({ length: 101 }, (_, n) => ({ ...mug, sku: `s${n}` })) }),
      'items',
    ),
    invalid('with a SKU twice', place({ items: [mug, { ...mug, quantity: 2 }] }), 'items'),
    invalid('with an unknown field in an item', placeItem({ price: 1 }), 'items[0].price'),
    invalid('without a SKU', placeItem({ sku: undefined }), 'items[0].sku'),
    invalid('with an empty SKU', placeItem({ sku: '' }), 'items[0].sku'),
    invalid('with a SKU of 129 characters', placeItem({ sku: 'x'.repeat(129) }), 'items[0].sku'),
    invalid('with NUL in a SKU', placeItem({ sku: 'm\0g' }), 'items[0].sku'),
    invalid('with a number as SKU', placeItem({ sku: 5 }), 'items[0].sku'),
    invalid('without a quantity', placeItem({ quantity: undefined }), 'items[0].quantity'),
    invalid('with a quantity of 0', placeItem({ quantity: 0 }), 'items[0].quantity'),
    invalid('with a quantity of 1.5', placeItem({ quantity: 1.5 }), 'items[0].quantity'),
    invalid('with a quantity of 1,000,001', placeItem({ quantity: 1_000_001 }), 'items[0].quantity'),
    invalid('with a quantity in quotes', placeItem({ quantity: '1' }), 'items[0].quantity'),
    invalid(
      'with a quantity of 1e309',
      placeRaw('{"currency":"EUR","items":[{"sku":"mug","quantity":1e309,"unitAmount":1}]}'),
      'items[0].quantity',
    ),
    invalid('with a unit amount of -1', placeItem({ unitAmount: -1 }), 'items[0].unitAmount'),
    invalid('with a unit amount of 12.5', placeItem({ unitAmount: 12.5 }), 'items[0].unitAmount'),
    invalid('with a unit amount past 2^53 - 1', placeItem({ unitAmount: 2 ** 53 }), 'items[0].unitAmount'),
    invalid('for nothing', placeItem({ unitAmount: 0 }), 'items'),
    invalid(
      'for more than 2^53 - 1',
      place({
        items: [
          { sku: 'mug', quantity: 1, unitAmount: Number.MAX_SAFE_INTEGER },
          { sku: 'uncounted', quantity: 1, unitAmount: 1 },
        ],
      }),
      'items',
    ),
    invalid(
      'for far more than 2^53 - 1',
      placeItem({ quantity: 1_000_000, unitAmount: Number.MAX_SAFE_INTEGER }),
      'items',
    ),
    invalid('with a window of 999 ms', place({ paymentWindowMs: 999 }), 'paymentWindowMs'),
    invalid('with a window past 90 days', place({ paymentWindowMs: 7_776_000_001 }), 'paymentWindowMs'),
    invalid('with a window in quotes', place({ paymentWindowMs: '1000' }), 'paymentWindowMs'),
    invalid('with a window of 1000.5 ms', place({ paymentWindowMs: 1000.5 }), 'paymentWindowMs'),
    invalid('with null as window', place({ paymentWindowMs: null }), 'paymentWindowMs'),
    invalid('with an empty reference', place({ reference: '' }), 'reference'),
    invalid('with a reference of 129 characters', place({ reference: 'x'.repeat(129) }), 'reference'),
    invalid('with half a character in the reference', place({ reference: 'a\ud800' }), 'reference'),
    invalid('with NUL in the reference', place({ reference: 'a\0' }), 'reference'),
    invalid('with an empty channel', place({ channel: '' }), 'channel'),
    invalid('with null as channel', place({ channel: null }), 'channel'),
    invalid('with a channel of 65 characters', place({ channel: 'x'.repeat(65) }), 'channel'),
    invalid('with a list as payment method', place({ paymentMethod: ['card'] }), 'paymentMethod'),
    invalid('with text as metadata', place({ metadata: 'gift' }), 'metadata'),
    invalid('with a list as metadata', place({ metadata: [1] }), 'metadata'),
    invalid('with null as metadata', place({ metadata: null }), 'metadata'),
    invalid('with metadata 17 deep', place({ metadata: nested(17) }), 'metadata'),
    invalid(
      'with metadata 10,000 deep',
      placeRaw(`{"currency":"EUR","items":[],"metadata":{"a":${'['.repeat(10_000)}${']'.repeat(10_000)}}}`),
      'metadata',
    ),
    invalid(
      'with metadata of 16,385 characters',
      place({ metadata: { a: 'x'.repeat(16_385 - 8) } }),
      'metadata',
    ),
    invalid(
      'with half a character in a key of the metadata',
      place({ metadata: { 'a\udc00': 1 } }),
      'metadata',
    ),
    invalid('with half a character in the metadata', place({ metadata: { a: ['\ud800'] } }), 'metadata'),
    invalid('with NUL in the metadata', place({ metadata: { a: { b: '\0' } } }), 'metadata'),
    invalid(
      'with a number in the metadata that is none',
      placeRaw('{"currency":"EUR","items":[],"metadata":{"a":-1e999}}'),
      'metadata',
    ),
    ['of more than there is', placeItem({ quantity: 1000 }), 409, 'out_of_stock'],
    ['of something unknown', placeItem({ sku: 'unheard-of' }), 422, 'unknown_sku'],
    invalid(
      'with an empty Idempotency-Key',
      { ...place({}), headers: withHeader('Idempotency-Key', '') },
      'Idempotency-Key',
    ),
    invalid(
      'with an Idempotency-Key of 256 characters',
      { ...place({}), headers: withHeader('Idempotency-Key', 'k'.repeat(256)) },
      'Idempotency-Key',
    ),
    invalid(
      'with a space in the Idempotency-Key',
      { ...place({}), headers: withHeader('Idempotency-Key', 'a b') },
      'Idempotency-Key',
    ),
    invalid(
      'with an umlaut in the Idempotency-Key',
      { ...place({}), headers: withHeader('Idempotency-Key', 'schlüssel') },
      'Idempotency-Key',
    ),
    invalid(
      'with two Idempotency-Keys',
      { ...place({}), headers: withHeader('Idempotency-Key', ['a', 'b']) },
      'Idempotency-Key',
    ),
  ]);

  test.each(['USD', 'JPY', 'SLE', 'VED', 'XCG', 'ZWG'])('in %s is taken', async (currency) => {
    expect(await send(place({ currency }))).toMatchObject({ status: 201, json: { currency } });
  });

  test('every problem is named at once', async () => {
    const { json } = await send(
      place({ channel: '', currency: 5, items: [{ sku: '', quantity: 2e6, unitAmount: '1' }] }),
    );
    expect(json.errors?.map(({ field }) => field)).toEqual([
      'channel',
      'currency',
      'items[0].sku',
      'items[0].quantity',
      'items[0].unitAmount',
    ]);
    for (const { field, message } of json.errors ?? []) expect(json.detail).toContain(`${field}: ${message}`);
  });

  test('the SKUs that are missing are named', async () => {
    const items = [mug, { ...mug, sku: 'never' }, { ...mug, sku: 'heard' }];
    const { json } = await send(place({ items }));
    expect(json).toMatchObject({ code: 'unknown_sku', skus: ['never', 'heard'] });
  });
});

describe('a payment', () => {
  refuses([
    invalid('without a provider', pay({ provider: undefined }), 'provider'),
    invalid('with an empty provider', pay({ provider: '' }), 'provider'),
    invalid('with a provider of 65 characters', pay({ provider: 'x'.repeat(65) }), 'provider'),
    invalid('without an id', pay({ providerPaymentId: undefined }), 'providerPaymentId'),
    invalid('with an id of 256 characters', pay({ providerPaymentId: 'x'.repeat(256) }), 'providerPaymentId'),
    invalid('with NUL in its id', pay({ providerPaymentId: 'p\0' }), 'providerPaymentId'),
    invalid('of 0', pay({ amount: 0 }), 'amount'),
    invalid('of -1', pay({ amount: -1 }), 'amount'),
    invalid('of 12.5', pay({ amount: 12.5 }), 'amount'),
    invalid('of 2^53', pay({ amount: 2 ** 53 }), 'amount'),
    invalid('of an amount in quotes', pay({ amount: '1250' }), 'amount'),
    invalid('in a currency in small letters', pay({ currency: 'eur' }), 'currency'),
    invalid('without a currency', pay({ currency: undefined }), 'currency'),
    ['that was recorded for another order', pay({ providerPaymentId: 'the-one' }), 409, 'payment_conflict'],
    invalid(
      'with an Idempotency-Key of spaces',
      { ...pay({}), headers: withHeader('Idempotency-Key', ' x y ') },
      'Idempotency-Key',
    ),
  ]);
});

describe('an extension', () => {
  refuses([
    invalid('by both', extend({ byMs: 1000, deadlineAt: '2026-01-01T00:00:00Z' }), ''),
    invalid('by nothing', extend({}), ''),
    invalid('by 0 ms', extend({ byMs: 0 }), 'byMs'),
    invalid('by -1 ms', extend({ byMs: -1 }), 'byMs'),
    invalid('by half a millisecond', extend({ byMs: 0.5 }), 'byMs'),
    invalid('by text', extend({ byMs: '1000' }), 'byMs'),
    invalid('by more than 90 days', extend({ byMs: 7_776_000_001 }), 'byMs'),
    invalid('to past 90 days from now', extend({ byMs: 7_776_000_000 }), 'byMs'),
    invalid('to an instant in the past', extend({ deadlineAt: '2020-01-01T00:00:00.000Z' }), 'deadlineAt'),
    invalid('to the year 9999', extend({ deadlineAt: '9999-12-31T23:59:59.999Z' }), 'deadlineAt'),
    invalid('to the thirteenth month', extend({ deadlineAt: '2026-13-01' }), 'deadlineAt'),
    invalid('to a day that does not exist', extend({ deadlineAt: '2027-02-29T00:00:00Z' }), 'deadlineAt'),
    invalid('to an instant without its offset', extend({ deadlineAt: '2036-01-01T00:00:00' }), 'deadlineAt'),
    invalid('to a number', extend({ deadlineAt: 1_900_000_000_000 }), 'deadlineAt'),
    ['of a paid order', extend({ byMs: 1000 }, '{paid}'), 409, 'order_not_pending'],
    ['of a cancelled order', extend({ byMs: 1000 }, '{cancelled}'), 409, 'order_not_pending'],
  ]);

  test('to an instant that is not behind the old deadline is refused', async () => {
    const before = await everything();
    const order = await fleet.client.order(ids.pending);
    for (const deadlineMs of [Date.parse(order.deadlineAt ?? ''), Date.parse(order.deadlineAt ?? '') - 1]) {
      const answer = await send(extend({ deadlineAt: new Date(deadlineMs).toISOString() }));
      expect(answer).toMatchObject({ status: 400, json: { code: 'invalid_request' } });
      expect(answer.json.detail).toContain(order.deadlineAt);
    }
    expect(await everything()).toEqual(before);
  });
});

describe('a cancellation', () => {
  refuses([
    invalid('for an unknown reason', cancel({ reason: 'whim' }), 'reason'),
    invalid('for the reason of the clock', cancel({ reason: 'payment_timeout' }), 'reason'),
    invalid('for null', cancel({ reason: null }), 'reason'),
    ['of a paid order', cancel({}, '{paid}'), 409, 'order_already_paid'],
  ]);

  test('of a cancelled order changes nothing', async () => {
    const before = await everything();
    const { status, json } = await send(cancel({ reason: 'merchant' }, '{cancelled}'));
    expect({ status, json }).toMatchObject({
      status: 200,
      json: { status: 'cancelled', cancelReason: 'customer' },
    });
    expect(await everything()).toEqual(before);
  });
});

describe('an order id', () => {
  const ordered: readonly (readonly [method: string, rest: string, body?: unknown])[] = [
    ['GET', ''],
    ['GET', '/timeline'],
    ['POST', '/payments', payment],
    ['POST', '/cancel', {}],
    ['POST', '/extend', { byMs: 1000 }],
  ];
  const ofNoOrder = (path: string, ...[method, rest, body]: (typeof ordered)[number]): Sent => ({
    method,
    path: `/v1/orders/${path}${rest}`,
    ...(body === undefined ? {} : { body }),
  });
  refuses(
    ordered.flatMap((route): Wrong[] => [
      [`that is unknown, ${route[0]} …${route[1]}`, ofNoOrder(unknownId, ...route), 404, 'order_not_found'],
      [`that is no UUID, ${route[0]} …${route[1]}`, ofNoOrder('42', ...route), 404, 'order_not_found'],
      [
        `in braces, ${route[0]} …${route[1]}`,
        ofNoOrder(`%7B${unknownId}%7D`, ...route),
        404,
        'order_not_found',
      ],
      [`with NUL, ${route[0]} …${route[1]}`, ofNoOrder(`${unknownId}%00`, ...route), 404, 'order_not_found'],
      invalid(`of half a percent sign, ${route[0]} …${route[1]}`, ofNoOrder('%', ...route)),
      invalid(`of broken UTF-8, ${route[0]} …${route[1]}`, ofNoOrder('%C3%28', ...route)),
    ]),
  );

  test('in capitals finds the order', async () => {
    const { status, json } = await send(get(`/v1/orders/${ids.pending.toUpperCase()}`));
    expect({ status, json }).toMatchObject({ status: 200, json: { id: ids.pending } });
  });
});

describe('stock', () => {
  refuses([
    invalid('of -1 pieces', setStock({ onHand: -1 }), 'onHand'),
    invalid('of 1.5 pieces', setStock({ onHand: 1.5 }), 'onHand'),
    invalid('of "5" pieces', setStock({ onHand: '5' }), 'onHand'),
    invalid('of 2^53 pieces', setStock({ onHand: 2 ** 53 }), 'onHand'),
    invalid('without a number', setStock({}), 'onHand'),
    ['below what is held', setStock({ onHand: 0 }), 409, 'stock_below_held'],
    invalid('of a SKU of 129 characters', setStock({ onHand: 1 }, 'x'.repeat(129)), 'sku'),
    invalid('of a SKU with NUL', setStock({ onHand: 1 }, 'a%00'), 'sku'),
    invalid('of a SKU of half a percent sign', setStock({ onHand: 1 }, '%')),
    invalid('changed by 1.5', adjust({ by: 1.5 }), 'by'),
    invalid('changed by text', adjust({ by: '1' }), 'by'),
    invalid('changed by nothing', adjust({}), 'by'),
    invalid('changed by -2^53', adjust({ by: -(2 ** 53) }), 'by'),
    ['changed to less than is held', adjust({ by: -99 }), 409, 'stock_below_held'],
    ['changed to less than nothing', adjust({ by: -6 }, 'poster'), 409, 'stock_below_held'],
    invalid('changed to more than 2^53 - 1', adjust({ by: Number.MAX_SAFE_INTEGER }), 'by'),
    ['that is unknown cannot be changed', adjust({ by: 1 }, 'unheard-of'), 404, 'not_found'],
    invalid('that nobody counts cannot be changed', adjust({ by: 1 }, 'uncounted'), 'by'),
    ['that is unknown cannot be read', get('/v1/stock/unheard-of'), 404, 'not_found'],
    invalid('of a SKU with NUL cannot be read', get('/v1/stock/%00'), 'sku'),
  ]);
});

describe('a list', () => {
  const lists = ['/v1/orders', '/v1/stock', '/v1/money/work'];
  const limits = ['', '0', '201', '-1', '1.5', 'x', '1e400'];
  refuses(
    lists.flatMap((path) =>
      limits.map((limit) => invalid(`${path} with limit "${limit}"`, get(`${path}?limit=${limit}`), 'limit')),
    ),
  );
  refuses(
    lists.flatMap((path) => [
      invalid(`${path} with limit twice`, get(`${path}?limit=1&limit=2`), 'limit'),
      invalid(`${path} with limit as a list`, get(`${path}?limit[]=1`), 'limit[]'),
      invalid(`${path} with an unknown parameter`, get(`${path}?surprise=1`), 'surprise'),
      invalid(`${path} with __proto__ as parameter`, get(`${path}?__proto__=1`), '__proto__'),
      invalid(`${path} with an empty cursor`, get(`${path}?cursor=`), 'cursor'),
      invalid(`${path} with NUL as cursor`, get(`${path}?cursor=%00`), 'cursor'),
      invalid(`${path} with two cursors`, get(`${path}?cursor=a&cursor=b`), 'cursor'),
    ]),
  );
  refuses([
    invalid('of orders with a bad cursor', get('/v1/orders?cursor=next'), 'cursor'),
    invalid('of orders in an unknown status', get('/v1/orders?status=late'), 'status'),
    invalid('of orders in two states', get('/v1/orders?status=paid&status=cancelled'), 'status'),
    invalid('of orders of an empty channel', get('/v1/orders?channel='), 'channel'),
    invalid('of orders with NUL as reference', get('/v1/orders?reference=%00'), 'reference'),
    invalid('of work with a bad cursor', get('/v1/money/work?cursor=next'), 'cursor'),
    invalid(
      'of work with a cursor that has no id',
      get(`/v1/money/work?cursor=1.${'-'.repeat(36)}`),
      'cursor',
    ),
    invalid(
      'of work with a cursor past the end of time',
      get(`/v1/money/work?cursor=${'9'.repeat(16)}.${unknownId}`),
      'cursor',
    ),
  ]);

  test.each([
    `/v1/orders?cursor=${unknownId}`,
    '/v1/stock?cursor=zzz',
    `/v1/money/work?cursor=0.${unknownId}`,
    `/v1/money/work?cursor=${'9'.repeat(15)}.${unknownId}`,
    '/v1/orders?channel=%F0%9F%8E%81&reference=%25&status=paid&limit=200',
    '/v1/orders?reference=%C3%28',
  ])('%s finds nothing and is no error', async (path) => {
    expect(await send(get(path))).toMatchObject({ status: 200, json: { data: [], nextCursor: null } });
  });
});

describe('a path', () => {
  refuses([
    ['that is unknown', get('/v1/nowhere'), 404, 'not_found'],
    ['outside of /v1', get('/nowhere'), 404, 'not_found'],
    ['of half a percent sign outside of any route', get('/%'), 404, 'not_found'],
    ['of the root', get('/'), 404, 'not_found'],
    ...(
      [
        ['DELETE', '/v1/orders'],
        ['PUT', '/v1/orders/{pending}'],
        ['PATCH', '/v1/orders/{pending}'],
        ['DELETE', '/v1/orders/{pending}'],
        ['GET', '/v1/orders/{pending}/cancel'],
        ['PUT', '/v1/orders/{pending}/payments'],
        ['DELETE', '/v1/stock/mug'],
        ['POST', '/v1/stock/mug'],
        ['POST', '/v1/money/work'],
        ['POST', '/healthz'],
      ] as const
    ).map(([method, path]): Wrong => [
      `with a method it does not have, ${method} ${path}`,
      { method, path },
      404,
      'not_found',
    ]),
  ]);

  test('that is unknown and very long is answered', async () => {
    expect(await send(get(`/v1/${'x'.repeat(8000)}`))).toMatchObject({
      status: 404,
      json: { code: 'not_found' },
    });
  });
});

/** Waits until the job behind an order is as wanted: the API answers before a slow Redis does. */
const jobOf = (orderId: string, isWanted: (job: Timeline['job']) => boolean): Promise<true> =>
  waitFor(async () => isWanted((await fleet.client.timeline(orderId)).job), {
    what: `the job of ${orderId}`,
  });

const orderKeys = [
  'id',
  'reference',
  'channel',
  'paymentMethod',
  'status',
  'cancelReason',
  'currency',
  'amount',
  'items',
  'metadata',
  'createdAt',
  'deadlineAt',
  'remainingMs',
  'paidAt',
  'cancelledAt',
].toSorted();
const stockKeys = ['available', 'held', 'onHand', 'sku'];
const paymentKeys = [
  'amount',
  'currency',
  'id',
  'listedAt',
  'listedFor',
  'note',
  'orderId',
  'outcome',
  'provider',
  'providerPaymentId',
  'recordedAt',
  'resolution',
  'resolvedAt',
  'resolvedBy',
  'verified',
];
const keys = (value: object): string[] => Object.keys(value).toSorted();
const isoInstant = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

describe('the contract', () => {
  const aGift = {
    reference: 'shop-1',
    channel: 'app',
    paymentMethod: 'sepa',
    currency: 'JPY',
    items: [{ sku: 'uncounted', quantity: 1_000_000, unitAmount: 3 }],
    paymentWindowMs: 7_776_000_000,
    metadata: { gift: true, note: '🎁 ü', deep: nested(15) },
  };

  test('of a checkout: 201, where it is, every key, and what was sent', async () => {
    const { status, headers, json } = await send(place(aGift));
    const { paymentWindowMs, ...sent } = aGift;
    expect(status).toBe(201);
    expect(headers.location).toBe(`/v1/orders/${json.id}`);
    expect(headers['content-type']).toBe('application/json; charset=utf-8');
    expect(keys(json)).toEqual(orderKeys);
    expect(json).toMatchObject({
      ...sent,
      id: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/),
      status: 'pending_payment',
      cancelReason: null,
      amount: 3_000_000,
      createdAt: expect.stringMatching(isoInstant),
      deadlineAt: expect.stringMatching(isoInstant),
      paidAt: null,
      cancelledAt: null,
    });
    expect(Date.parse(json.deadlineAt ?? '') - Date.parse(json.createdAt)).toBe(paymentWindowMs);
    expect(json.remainingMs).toBeLessThanOrEqual(paymentWindowMs);
    expect(json.remainingMs).toBeGreaterThan(paymentWindowMs - 30_000);
    const { json: read } = await send(get(headers.location ?? ''));
    expect(read).toEqual({ ...json, remainingMs: read.remainingMs });
    expect(read.remainingMs).toBeLessThanOrEqual(json.remainingMs ?? 0);
  });

  test('of a checkout that says little: the defaults', async () => {
    const { json } = await send(place({}));
    expect(json).toMatchObject({ reference: null, channel: 'default', paymentMethod: 'card', metadata: {} });
    expect(Date.parse(json.deadlineAt ?? '') - Date.parse(json.createdAt)).toBe(30 * 60 * 1000);
  });

  test('of a checkout at every upper bound: 201', async () => {
    const items = Array.from({ length: 100 }, (_, n) => ({
      sku: `${n}`.padStart(128, 's'),
      quantity: 1,
      unitAmount: 1,
    }));
    await Promise.all(items.map(({ sku }) => fleet.client.setStock(sku, 1)));
    const sent = {
      reference: 'r'.repeat(128),
      channel: 'c'.repeat(64),
      paymentMethod: 'p'.repeat(64),
      currency: 'EUR',
      items,
      metadata: { a: 'x'.repeat(16_384 - 8) },
    };
    const { status, json } = await send({ ...place(sent), headers: { 'Idempotency-Key': 'k'.repeat(255) } });
    expect(status).toBe(201);
    expect(json).toMatchObject({ ...sent, amount: 100 });
  });

  test('of a checkout for 2^53 - 1: not a unit is lost', async () => {
    const items = [{ sku: 'uncounted', quantity: 1, unitAmount: Number.MAX_SAFE_INTEGER }];
    const { status, json } = await send(place({ items }));
    expect({ status, amount: json.amount }).toEqual({ status: 201, amount: 9_007_199_254_740_991 });
  });

  test('of a repeated checkout: the same order, in whatever order its fields are', async () => {
    const headers = { 'Idempotency-Key': 'contract-1' };
    const first = await send({ ...place({}), headers });
    const again = await send({
      method: 'POST',
      path: '/v1/orders',
      headers,
      body: { items: [mug], currency: 'EUR' },
    });
    expect(again).toMatchObject({
      status: 201,
      headers: { location: first.headers.location },
      json: { id: first.json.id },
    });
    expect(await send({ ...place({ reference: 'other' }), headers })).toMatchObject({
      status: 422,
      json: { code: 'idempotency_key_reused' },
    });
  });

  test('of metadata with keys that mean something to JavaScript: kept, and nothing is polluted', async () => {
    const metadata =
      '{"constructor":{"prototype":{"polluted":1}},"toString":1,"in":{"__proto__":{"polluted":1}},"__proto__":{"top":1}}';
    const { status, text, json } = await send(
      placeRaw(`{"currency":"EUR","items":[${JSON.stringify(mug)}],"metadata":${metadata}}`),
    );
    expect(status).toBe(201);
    expect(json.metadata.constructor).toEqual({ prototype: { polluted: 1 } });
    expect(text).toContain('"__proto__":{"polluted":1}');
    expect(text).toContain('"__proto__":{"top":1}');
    expect((await send(get(`/v1/orders/${json.id}`))).text).toContain('"__proto__":{"top":1}');
    const { rows } = await fleet.database.query('select metadata::text from orders where id = $1', [json.id]);
    expect(rows[0]).toEqual({ metadata: expect.stringContaining('"__proto__": {"polluted": 1}') });
    expect(rows[0]).toEqual({ metadata: expect.stringContaining('"__proto__": {"top": 1}') });
    const { text: next } = await send(place({}));
    expect(next).not.toMatch(/polluted|top/);
  });

  test('of a list of orders: every key, newest first, page by page', async () => {
    const reference = 'listed';
    const placed: Order[] = [];
    for (let n = 0; n < 5; n += 1) placed.push((await send(place({ reference }))).json);
    const seen: Order[] = [];
    for (let path = `/v1/orders?reference=${reference}&limit=2`; path !== '';) {
      const { status, json } = await send(get(path));
      expect(status).toBe(200);
      expect(keys(json)).toEqual(['data', 'nextCursor']);
      seen.push(...json.data);
      path =
        json.nextCursor === null ? '' : `/v1/orders?reference=${reference}&limit=2&cursor=${json.nextCursor}`;
    }
    expect(seen.map(({ id }) => id)).toEqual(placed.map(({ id }) => id).toReversed());
    for (const order of seen) expect(keys(order)).toEqual(orderKeys);
  });

  test('of a payment: what it did, the order and the payment', async () => {
    const { json: order } = await send(place({}));
    const { status, json } = await send(pay({ providerPaymentId: 'contract-pay' }, order.id));
    expect(status).toBe(200);
    expect(keys(json)).toEqual(['order', 'outcome', 'payment']);
    expect(keys(json.order)).toEqual(orderKeys);
    expect(keys(json.payment)).toEqual(paymentKeys);
    expect(json).toMatchObject({
      outcome: 'paid',
      order: { id: order.id, status: 'paid', remainingMs: 0, paidAt: expect.stringMatching(isoInstant) },
      payment: {
        orderId: order.id,
        verified: false,
        listedAt: null,
        recordedAt: expect.stringMatching(isoInstant),
      },
    });
  });

  test('of the timeline: every event, and the job that stands behind the deadline', async () => {
    const { json: order } = await send(place({}));
    const { status, json } = await send(get(`/v1/orders/${order.id}/timeline`));
    expect(status).toBe(200);
    expect(keys(json)).toEqual(['events', 'job']);
    await jobOf(order.id, (job) => job?.state === 'delayed' && job.firesAt === order.deadlineAt);
    expect(json.events).toEqual([
      {
        id: expect.any(Number),
        type: 'order.placed',
        at: expect.stringMatching(isoInstant),
        actor: 'api',
        data: expect.any(Object),
      },
    ]);
    await send(pay({ providerPaymentId: 'contract-timeline' }, order.id));
    await jobOf(order.id, (job) => job === null);
    const { json: later } = await send(get(`/v1/orders/${order.id}/timeline`));
    expect(later.events.map(({ type }) => type)).toEqual(['order.placed', 'order.paid']);
  });

  test('of an extension: the order with its new deadline, the job behind it', async () => {
    const { json: order } = await send(place({}));
    const { status, json } = await send(extend({ byMs: 1000 }, order.id));
    expect(status).toBe(200);
    expect(keys(json)).toEqual(orderKeys);
    expect(Date.parse(json.deadlineAt ?? '') - Date.parse(order.deadlineAt ?? '')).toBe(1000);
    const deadlineAt = new Date(Date.parse(json.deadlineAt ?? '') + 5000);
    const offset = deadlineAt.toISOString().replace('Z', '+00:00');
    const { json: further } = await send(extend({ deadlineAt: offset }, order.id));
    expect(further.deadlineAt).toBe(deadlineAt.toISOString());
    // `changeDelay` counts from now: a few milliseconds may pass on the way.
    const isMoved = (firesAt: string | null) =>
      Math.abs(Date.parse(firesAt ?? '') - deadlineAt.getTime()) < 1000;
    await jobOf(order.id, (job) => job?.state === 'delayed' && isMoved(job.firesAt));
  });

  test.each([
    ['without a body', undefined, 'customer'],
    ['with an empty object', {}, 'customer'],
    ['by the customer', { reason: 'customer' }, 'customer'],
    ['by the merchant', { reason: 'merchant' }, 'merchant'],
  ])('of a cancellation %s: the order and its reason', async (_, body, cancelReason) => {
    const { json: order } = await send(place({}));
    const { status, json } = await send(cancel(body, order.id));
    expect(status).toBe(200);
    expect(keys(json)).toEqual(orderKeys);
    expect(json).toMatchObject({
      status: 'cancelled',
      cancelReason,
      remainingMs: 0,
      cancelledAt: expect.stringMatching(isoInstant),
    });
  });

  test('of stock: set, changed, read, listed with the same keys', async () => {
    const sku = 'a/b ü?🎁';
    const path = encodeURIComponent(sku);
    const answers = [
      await send(setStock({ onHand: 5 }, path)),
      await send(adjust({ by: -2 }, path)),
      await send(get(`/v1/stock/${path}`)),
    ];
    for (const { status, json } of answers) {
      expect(status).toBe(200);
      expect(keys(json)).toEqual(stockKeys);
    }
    expect(answers[2]?.json).toEqual({ sku, onHand: 3, held: 0, available: 3 });
    expect((await send(get('/v1/stock/uncounted'))).json).toMatchObject({ onHand: null, available: null });
    const { json: list } = await send(get('/v1/stock?limit=2'));
    expect(keys(list)).toEqual(['data', 'nextCursor']);
    expect(list.data.map(keys)).toEqual([stockKeys, stockKeys]);
    expect(list.nextCursor).toBe(list.data[1]?.sku);
  });

  test('of the work list: the payments, page by page', async () => {
    const { json: order } = await send(place({}));
    const outcomes: string[] = [];
    for (let n = 0; n < 3; n += 1) {
      const { json } = await send(pay({ providerPaymentId: `listed-${n}`, amount: 1 }, order.id));
      outcomes.push(json.outcome);
    }
    expect(outcomes).toEqual(['amount_mismatch', 'amount_mismatch', 'amount_mismatch']);
    const seen: string[] = [];
    for (let path = '/v1/money/work?limit=2'; path !== '';) {
      const { status, json } = await send(get(path));
      expect(status).toBe(200);
      expect(keys(json)).toEqual(['data', 'nextCursor']);
      for (const listed of json.data) {
        expect(keys(listed)).toEqual([...paymentKeys, 'refund'].toSorted());
        expect(listed.listedAt).toMatch(isoInstant);
        seen.push(listed.providerPaymentId);
      }
      path = json.nextCursor === null ? '' : `/v1/money/work?limit=2&cursor=${json.nextCursor}`;
    }
    expect(seen.toSorted()).toEqual(['listed-0', 'listed-1', 'listed-2']);
  });

  test.each(['/v1/stock', '/nowhere'])(
    'of every answer of %s: headers that keep browsers from guessing',
    async (path) => {
      const { headers } = await send(get(path));
      expect(headers).toMatchObject({
        'x-content-type-options': 'nosniff',
        'content-security-policy': "default-src 'none';frame-ancestors 'none'",
        'strict-transport-security': expect.stringContaining('max-age='),
      });
      expect(headers).not.toHaveProperty('x-powered-by');
    },
  );

  test('of health: without a key, never cached, Redis reported', async () => {
    const anybody = { headers: { Authorization: '' } };
    const [healthy, ready, metrics] = await Promise.all(
      ['/healthz', '/readyz', '/metrics?x=1'].map((path) => send({ ...get(path), ...anybody })),
    );
    expect(healthy).toMatchObject({ status: 200, json: { status: 'ok' } });
    expect(ready).toMatchObject({
      status: 200,
      json: { status: 'ready', draining: false, postgresql: 'ok', redis: 'ok' },
    });
    expect(metrics?.status).toBe(200);
    expect(metrics?.text).toMatch(
      /lapse_http_request_duration_seconds_count\{method="POST",route="\/v1\/orders\/:id\/payments",status="200"\} \d/,
    );
    for (const answer of [healthy, ready, metrics]) expect(answer?.headers['cache-control']).toBe('no-store');
  });

  test.each(['/healthz', '/readyz'])('of HEAD %s: as of GET, without the body', async (path) => {
    const [read, head] = [await send(get(path)), await send({ method: 'HEAD', path })];
    const { date: _, ...headers } = read.headers;
    expect(head).toMatchObject({ status: 200, headers, text: '' });
    expect(headers['content-length']).toBe(String(read.text.length));
  });
});

/** What two answers to the same call must have in common: all but the time, and the order. */
const alike = ({ status, headers: { date: _, location, ...headers }, json }: Answer) => ({
  status,
  headers,
  hasLocation: location === `/v1/orders/${json.id}`,
  keys: Object.keys(json),
  json: json.code === undefined ? undefined : json,
});

describe('the fast lane', () => {
  /** The same call, written so that only Express takes it. */
  const byExpress = ({ headers, ...sent }: Sent): Sent => ({
    ...sent,
    headers: { ...headers, 'Content-Type': 'application/json;charset="utf-8"' },
  });
  test.each<[string, Sent]>([
    ['a checkout', place({ reference: 'fast' })],
    ['one that lacks a field', place({ currency: undefined })],
    ['one of an unknown SKU', place({ items: [{ ...mug, sku: 'no-such-sku' }] })],
    ['one with a wrong idempotency key', { ...place({}), headers: { 'Idempotency-Key': 'ü' } }],
    ['a body that is no JSON', placeRaw('{"currency":')],
    ['a body that is no object', placeRaw('null')],
    ['a body that is an array', placeRaw('[]')],
    ['a body that begins with a byte order mark', placeRaw(`\uFEFF${JSON.stringify(checkout)}`)],
    ['a body that is not UTF-8', placeRaw(Buffer.from('{"currency":"\xff"}', 'latin1'))],
    ['a payment of an order that is paid', pay({ providerPaymentId: 'the-one' }, '{paid}')],
    ['one of an order that is not there', pay({}, '01890000-0000-7000-8000-000000000000')],
    ['one of no order', pay({}, '------------------------------------')],
    ['a call with a wrong key', { ...place({}), headers: { Authorization: 'Bearer wrong' } }],
  ])('answers %s as Express does', async (_, sent) => {
    const [fast, express] = [await send(sent), await send(byExpress(sent))];
    expect(alike(fast)).toEqual(alike(express));
  });

  test('forgets a call whose client leaves in the middle of the body', async () => {
    const { hostname, port } = new URL(fleet.apis[0]?.url ?? '');
    const before = await everything();
    const socket = connect(Number(port), hostname);
    socket.on('error', () => undefined);
    socket.write(
      'POST /v1/orders HTTP/1.1\r\nHost: lapse\r\nContent-Type: application/json\r\n' +
        `Authorization: Bearer ${apiKey}\r\nContent-Length: 500\r\n\r\n${JSON.stringify(checkout)}`,
      () => socket.resetAndDestroy(),
    );
    await once(socket, 'close');
    expect((await send(get('/v1/stock/mug'))).status).toBe(200);
    expect(await everything()).toEqual(before);
  });
});
