import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { createClient, LapseError, LapseUnanswered, type LapseClient } from './index.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

/** Listens on a free port. */
async function listen(answer: RequestListener): Promise<{ url: string; server: Server }> {
  const server = createServer(answer);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => {
    server.close();
    server.closeAllConnections();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, server };
}

/** A client of a server that answers as it is told, and the requests that came. */
async function clientOf(
  answer: RequestListener,
  { path = '', timeoutMs = 10_000 } = {},
): Promise<{ client: LapseClient; asked: string[] }> {
  const asked: string[] = [];
  const { url } = await listen((request, response) => {
    asked.push(`${request.method} ${request.url}`);
    answer(request, response);
  });
  return { client: createClient({ baseUrl: url + path, apiKey: 'key', timeoutMs }), asked };
}

const json =
  (status: number, body: object): RequestListener =>
  (_, response) =>
    response.writeHead(status, { 'Content-Type': 'application/problem+json' }).end(JSON.stringify(body));

const page =
  (status: number): RequestListener =>
  (_, response) =>
    response.writeHead(status, { 'Content-Type': 'text/html' }).end('<h1>Hello</h1>');

/** What a call rejects with. */
async function rejectionOf(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    () => new Error('it did not reject'),
    (error: unknown) => error,
  );
}

describe('an answer', () => {
  test('of a proxy is an error with its status, whatever its body is', async () => {
    for (const status of [502, 200]) {
      const { client } = await clientOf(page(status));
      const error = await rejectionOf(client.order('1'));
      expect(error).toBeInstanceOf(LapseError);
      expect(error).toMatchObject({ status, code: 'unknown', errors: [], skus: [] });
    }
  });

  test('that refuses says which fields are wrong and which SKUs are meant', async () => {
    const errors = [{ field: 'items[0].quantity', message: 'is 0' }];
    const { client: wrong } = await clientOf(json(400, { code: 'invalid_request', detail: 'no', errors }));
    const { client: late } = await clientOf(
      json(409, { code: 'out_of_stock', detail: 'none', skus: ['mug'] }),
    );
    expect(await rejectionOf(wrong.orders())).toMatchObject({
      status: 400,
      code: 'invalid_request',
      message: 'no',
      errors,
      skus: [],
    });
    expect(await rejectionOf(late.orders())).toMatchObject({
      code: 'out_of_stock',
      errors: [],
      skus: ['mug'],
    });
  });

  test('that sends a checkout elsewhere is an error, not the list that is there', async () => {
    const { client, asked } = await clientOf((request, response) => {
      if (request.url === '/elsewhere') response.end('{"data":[]}');
      else response.writeHead(302, { Location: '/elsewhere' }).end();
    });
    const error = await rejectionOf(client.checkout({ currency: 'EUR', items: [] }));
    expect(error).toMatchObject({ name: 'LapseError', status: 302 });
    expect(asked).toEqual(['POST /v1/orders']);
  });

  test.each<[string, RequestListener]>([
    ['that does not come', () => undefined],
    ['that breaks off and comes to no end', (_, response) => void response.writeHead(200).write('{"id":')],
  ])('%s is given up after the time-out', async (_, answer) => {
    const { client } = await clientOf(answer, { timeoutMs: 100 });
    const error = await rejectionOf(client.order('1'));
    expect(error).toBeInstanceOf(LapseUnanswered);
    expect(error).toMatchObject({ code: 'timeout' });
  });

  test('that nobody gives is an error that says why', async () => {
    const { client } = await clientOf((request) => request.socket.destroy());
    expect(await rejectionOf(client.order('1'))).toMatchObject({
      name: 'LapseUnanswered',
      code: 'unreachable',
    });
    const { url, server } = await listen(() => undefined);
    server.close();
    await once(server, 'close');
    const nobody = createClient({ baseUrl: url, apiKey: 'key' });
    expect(await rejectionOf(nobody.order('1'))).toMatchObject({
      code: 'unreachable',
      cause: { code: 'ECONNREFUSED' },
    });
  });
});

describe('a request', () => {
  test.each(['/shop/lapse', '/shop/lapse/'])('goes below the path of the base URL, %s', async (path) => {
    const { client, asked } = await clientOf(json(200, {}), { path });
    await client.order('1');
    await client.orders({ status: 'paid', limit: 2 });
    expect(asked).toEqual(['GET /shop/lapse/v1/orders/1', 'GET /shop/lapse/v1/orders?status=paid&limit=2']);
  });

  test('freezes, lists what was frozen, and thaws', async () => {
    const { client, asked } = await clientOf(json(200, { data: [{ id: '1' }] }));
    await client.freeze({ reason: 'stripe is down', scope: { provider: 'stripe' } });
    expect(await client.freezes()).toEqual([{ id: '1' }]);
    await client.thaw('1');
    expect(asked).toEqual(['POST /v1/freezes', 'GET /v1/freezes', 'POST /v1/freezes/1/thaw']);
  });

  test.each(['', '.', '..'])('for "%s", which would be another path, is not sent', async (name) => {
    const { client, asked } = await clientOf(json(200, { data: [] }));
    for (const call of [
      client.order(name),
      client.cancel(name),
      client.stock(name),
      client.setStock(name, 1),
      client.thaw(name),
    ]) {
      expect(await rejectionOf(call)).toBeInstanceOf(RangeError);
    }
    expect(asked).toEqual([]);
  });

  test('for a name of any other characters names it', async () => {
    const { client, asked } = await clientOf(json(200, {}));
    await client.stock('a/b ü?#%..');
    expect(asked).toEqual(['GET /v1/stock/a%2Fb%20%C3%BC%3F%23%25..']);
  });
});
