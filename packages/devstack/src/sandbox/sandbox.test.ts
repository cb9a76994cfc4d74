import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import { freePort } from '../ports.ts';
import { waitFor } from '../wait-for.ts';
import { isSigned, signedHeaders } from './signature.ts';
import { type Sandbox, type SandboxOptions, startSandbox } from './start.ts';

const secret = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

async function start(options: Partial<SandboxOptions> = {}): Promise<Sandbox> {
  const sandbox = await startSandbox({ secret, ...options });
  cleanups.push(() => sandbox.stop());
  return sandbox;
}

/** A shop that hears webhooks: their types and ids, in the order in which they came. */
async function startShop(answer: (n: number) => number = () => 204) {
  const heard: { type: string; id: string; data: Record<string, unknown>; isGenuine: boolean }[] = [];
  const server = createServer((request, response) => {
    void text(request).then((body) => {
      const { type, data } = JSON.parse(body);
      const id = String(request.headers['webhook-id']);
      heard.push({ type, id, data, isGenuine: isSigned(secret, body, request.headers) });
      response.writeHead(answer(heard.length - 1)).end();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => {
    server.close();
    server.closeAllConnections();
  });
  const hooksUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hooks/sandbox`;
  return { hooksUrl, heard, types: () => heard.map(({ type }) => type) };
}

/** A URL that nobody hears at. */
async function nowhere(): Promise<string> {
  return `http://127.0.0.1:${await freePort()}/hooks/sandbox`;
}

/** Makes a call; the answer's status is 0 where there is none. */
async function call(sandbox: Sandbox, path: string, fields: object, headers?: Record<string, string>) {
  const body = JSON.stringify({ call: path, ...fields });
  try {
    const response = await fetch(sandbox.url + path, {
      method: 'POST',
      headers: headers ?? signedHeaders(secret, body),
      body,
    });
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  } catch {
    return { status: 0, body: {} };
  }
}

const order = (attemptId: string = randomUUID()) => ({
  attemptId,
  orderId: randomUUID(),
  amount: 1250,
  currency: 'EUR',
  payBy: null,
  handOff: 'url',
  returnUrl: null,
  description: 'Order 1',
});

/** Opens an attempt, and says how it is named from then on. */
async function open(sandbox: Sandbox, asked = order()) {
  const { status, body } = await call(sandbox, '/v1/attempts', asked);
  expect(status).toBe(200);
  const { attemptId, orderId } = asked;
  return { attemptId, orderId, providerAttemptId: String(body['providerAttemptId']) };
}

/** A paid attempt's refund, as it is asked for. */
function refundOf(sandbox: Sandbox, attemptId: string) {
  const paid = sandbox.pay(attemptId);
  if (paid.outcome !== 'paid') throw new Error('it was not paid');
  const { providerPaymentId, orderId, amount, currency } = paid.capture;
  return { refundId: randomUUID(), orderId, providerPaymentId, amount, currency };
}

/** How forty calls are answered by a sandbox that often fails. */
async function statusesOf(seed: string): Promise<number[]> {
  const sandbox = await start({ seed, behaviour: { failShare: 0.4, loseAnswerShare: 0.4 } });
  const statuses: number[] = [];
  for (let n = 0; n < 40; n += 1) statuses.push((await call(sandbox, '/v1/attempts', order())).status);
  return statuses;
}

describe('an attempt', () => {
  test('is opened once, is paid once, and is not closed then', async () => {
    const sandbox = await start();
    const asked = order();
    const named = await open(sandbox, asked);
    expect(await open(sandbox, asked)).toEqual(named);
    expect(await call(sandbox, '/v1/attempts/look', named)).toMatchObject({ body: { status: 'open' } });
    const paid = sandbox.pay(named.attemptId);
    expect(sandbox.pay(named.attemptId)).toEqual(paid);
    const capture = { amount: 1250, currency: 'EUR' };
    expect(await call(sandbox, '/v1/attempts/close', named)).toMatchObject({
      body: { status: 'paid', capture },
    });
    expect(sandbox.ledger()).toMatchObject({
      attempts: [{ status: 'paid' }],
      captures: [capture],
      refunds: [],
    });
  });

  test('that it does not know was never opened, it says; where it is forgetful, that it is closed', async () => {
    const named = { attemptId: randomUUID(), orderId: randomUUID(), providerAttemptId: 'att_1' };
    const [sandbox, forgetful] = [await start(), await start({ isForgetful: true })];
    for (const path of ['/v1/attempts/look', '/v1/attempts/close']) {
      expect(await call(sandbox, path, named)).toMatchObject({
        status: 404,
        body: { code: 'unknown_attempt' },
      });
      const said = { attemptId: named.attemptId, status: 'closed' };
      expect(await call(forgetful, path, named)).toEqual({ status: 200, body: said });
    }
  });

  test('that is closed cannot be paid', async () => {
    const sandbox = await start();
    const named = await open(sandbox);
    expect(await call(sandbox, '/v1/attempts/close', named)).toMatchObject({ body: { status: 'closed' } });
    expect(sandbox.pay(named.attemptId)).toEqual({ outcome: 'closed' });
    expect(sandbox.ledger().captures).toEqual([]);
  });

  test('of another order under the same id is refused, and so is one that was not opened', async () => {
    const sandbox = await start();
    const named = await open(sandbox);
    const other = await call(sandbox, '/v1/attempts', order(named.attemptId));
    expect(other).toMatchObject({ status: 422, body: { code: 'attempt_reused' } });
    const unknown = { ...named, attemptId: randomUUID() };
    expect(await call(sandbox, '/v1/attempts/close', unknown)).toMatchObject({ status: 404 });
  });

  test('can turn out to be paid when it is closed, with and without a webhook', async () => {
    const { hooksUrl, heard } = await startShop();
    const sandbox = await start({
      hooksUrl,
      script: ({ n }) => ({ whenClosed: n === 0 ? 'paid_before' : 'paid_now' }),
    });
    const before = await open(sandbox);
    const now = await open(sandbox);
    for (const named of [before, now]) {
      expect(await call(sandbox, '/v1/attempts/close', named)).toMatchObject({ body: { status: 'paid' } });
    }
    await sandbox.idle();
    expect(heard).toMatchObject([{ type: 'attempt.paid', data: { attemptId: now.attemptId } }]);
  });

  test.each(['paid', 'closed'] as const)(
    'can be processing when it is closed, and then be %s',
    async (end) => {
      const { hooksUrl, types } = await startShop();
      const sandbox = await start({ hooksUrl, behaviour: { whenClosed: `processing_then_${end}` } });
      const named = await open(sandbox);
      for (let n = 0; n < 2; n += 1) {
        expect(await call(sandbox, '/v1/attempts/close', named)).toMatchObject({
          body: { status: 'processing' },
        });
      }
      expect(sandbox.pay(named.attemptId)).toEqual({ outcome: 'processing' });
      sandbox.settle(named.attemptId, end);
      expect(await call(sandbox, '/v1/attempts/look', named)).toMatchObject({ body: { status: end } });
      await sandbox.idle();
      expect(types()).toEqual(['attempt.processing', `attempt.${end}`]);
    },
  );

  test('that a customer pays slowly is paid by itself after its time', async () => {
    const sandbox = await start({ behaviour: { processingMs: 10 } });
    const { attemptId } = await open(sandbox);
    sandbox.startPaying(attemptId);
    await sandbox.idle();
    expect(sandbox.ledger().attempts).toMatchObject([{ attemptId, status: 'paid' }]);
  });

  test('has a page with a button', async () => {
    const sandbox = await start();
    const { body } = await call(sandbox, '/v1/attempts', order());
    const { url } = body['handOff'] as { url: string };
    expect(await (await fetch(url)).text()).toContain('<button>');
    expect(await (await fetch(url, { method: 'POST' })).text()).toContain('paid');
    expect(sandbox.ledger().captures).toHaveLength(1);
    expect((await fetch(`${sandbox.url}/pay/nothing`)).status).toBe(404);
  });
});

describe('a refund', () => {
  test('is made once, and can be found', async () => {
    const sandbox = await start();
    const { attemptId } = await open(sandbox);
    const refund = refundOf(sandbox, attemptId);
    expect(await call(sandbox, '/v1/refunds/find', refund)).toMatchObject({ body: { status: 'none' } });
    expect(await call(sandbox, '/v1/refunds', refund)).toMatchObject({ body: { status: 'sent' } });
    await sandbox.idle();
    expect(await call(sandbox, '/v1/refunds', refund)).toMatchObject({ body: { status: 'confirmed' } });
    expect(await call(sandbox, '/v1/refunds/find', refund)).toMatchObject({ body: { status: 'confirmed' } });
    expect(sandbox.ledger()).toMatchObject({ refunds: [{ status: 'confirmed' }], returnedTwice: [] });
  });

  test('under another id returns the money again, and the ledger tells', async () => {
    const sandbox = await start();
    const { attemptId } = await open(sandbox);
    const refund = refundOf(sandbox, attemptId);
    await call(sandbox, '/v1/refunds', refund);
    await call(sandbox, '/v1/refunds', { ...refund, refundId: randomUUID() });
    expect(sandbox.ledger().returnedTwice).toEqual([refund.providerPaymentId]);
  });

  test('of another amount, or of money that was never taken, is refused', async () => {
    const sandbox = await start();
    const { attemptId } = await open(sandbox);
    const refund = refundOf(sandbox, attemptId);
    for (const wrong of [{ amount: 1 }, { currency: 'USD' }, { providerPaymentId: 'pay_other' }]) {
      expect(await call(sandbox, '/v1/refunds', { ...refund, ...wrong })).toMatchObject({ status: 422 });
    }
    expect(sandbox.ledger().refunds).toEqual([]);
  });

  test.each([
    ['confirmed', 200, 'confirmed', 'confirmed', []],
    ['confirmed_twice', 200, 'confirmed', 'confirmed', ['refund.confirmed']],
    ['confirmed_later', 200, 'sent', 'confirmed', ['refund.confirmed']],
    ['failed', 200, 'failed', 'failed', []],
    ['failed_later', 200, 'sent', 'failed', ['refund.failed']],
    ['refused', 422, 422, undefined, []],
  ] as const)('can be %s', async (refunds, status, first, last, webhooks) => {
    const { hooksUrl, types } = await startShop();
    const sandbox = await start({ hooksUrl, behaviour: { refunds } });
    const { attemptId } = await open(sandbox);
    const answer = await call(sandbox, '/v1/refunds', refundOf(sandbox, attemptId));
    expect(answer).toMatchObject({ status, body: { status: first } });
    await sandbox.idle();
    expect(sandbox.ledger().refunds.map((refund) => refund.status)).toEqual(last === undefined ? [] : [last]);
    expect(types()).toEqual(['attempt.paid', ...webhooks]);
  });

  test('can be settled by hand', async () => {
    const sandbox = await start({ behaviour: { refundMs: Infinity } });
    const { attemptId } = await open(sandbox);
    const refund = refundOf(sandbox, attemptId);
    await call(sandbox, '/v1/refunds', refund);
    sandbox.settleRefund(refund.refundId, 'failed');
    expect(sandbox.ledger().refunds).toMatchObject([{ status: 'failed' }]);
  });
});

describe('a call', () => {
  test('that is not signed, or signed for another body, long ago or with another secret, is refused', async () => {
    const sandbox = await start();
    const asked = order();
    const body = JSON.stringify({ call: '/v1/attempts', ...asked });
    const another = `whsec_${Buffer.alloc(32, 8).toString('base64')}`;
    const sixMinutesAgo = new Date(Date.now() - 360_000);
    for (const headers of [
      {},
      signedHeaders(secret, `${body} `),
      signedHeaders(secret, body, { at: sixMinutesAgo }),
      signedHeaders(another, body),
    ]) {
      expect(await call(sandbox, '/v1/attempts', asked, headers)).toMatchObject({ status: 401 });
    }
    const both = signedHeaders(`${another} ${secret}`, body);
    expect(await call(sandbox, '/v1/attempts', asked, both)).toMatchObject({ status: 200 });
    expect(sandbox.counts()).toMatchObject({ wrongCalls: 4, calls: { open: 1 } });
  });

  test('that was signed for another path, or has other fields, is refused', async () => {
    const sandbox = await start();
    const named = await open(sandbox);
    for (const wrong of [{ call: '/v1/attempts/look' }, { extra: 1 }, { orderId: 'none' }]) {
      const answer = await call(sandbox, '/v1/attempts/close', { ...named, ...wrong });
      expect(answer).toMatchObject({ status: 400, body: { code: 'not_of_the_protocol' } });
    }
    expect(await call(sandbox, '/v1/other', named)).toMatchObject({ status: 404 });
    expect(sandbox.ledger().attempts).toMatchObject([{ status: 'open' }]);
  });

  test('fails as often as it was told to, and nothing is done', async () => {
    const sandbox = await start({ behaviour: { failCount: 2 } });
    const asked = order();
    expect(await call(sandbox, '/v1/attempts', asked)).toMatchObject({ status: 503 });
    expect(await call(sandbox, '/v1/attempts', asked)).toMatchObject({ status: 503 });
    expect(sandbox.ledger().attempts).toEqual([]);
    const named = await open(sandbox, asked);
    sandbox.setBehaviour({ failCount: 1 }, named.attemptId);
    const other = await open(sandbox);
    expect(await call(sandbox, '/v1/attempts/close', other)).toMatchObject({ status: 200 });
    expect(await call(sandbox, '/v1/attempts/close', named)).toMatchObject({ status: 503 });
    expect(await call(sandbox, '/v1/attempts/close', named)).toMatchObject({ status: 200 });
    expect(sandbox.counts()).toMatchObject({ failedCalls: 3 });
  });

  test('is done though its answer is lost', async () => {
    const sandbox = await start({ behaviour: { loseAnswerShare: 1, faultyCalls: ['open'] } });
    const asked = order();
    expect(await call(sandbox, '/v1/attempts', asked)).toMatchObject({ status: 0 });
    expect(sandbox.ledger().attempts).toMatchObject([{ attemptId: asked.attemptId, status: 'open' }]);
    sandbox.setBehaviour({ loseAnswerShare: 0 });
    await open(sandbox, asked);
    expect(sandbox.ledger().attempts).toHaveLength(1);
    expect(sandbox.counts()).toMatchObject({ lostAnswers: 1, calls: { open: 2 } });
  });

  test('that is answered late is done at once', async () => {
    const sandbox = await start({ behaviour: { slowMs: 3_600_000 } });
    const answer = call(sandbox, '/v1/attempts', order());
    await waitFor(() => sandbox.ledger().attempts.length === 1, { what: 'the attempt' });
    await sandbox.stop();
    expect(await answer).toMatchObject({ status: 0 });
  });

  test('fails and loses its answer in the same places for the same seed', async () => {
    const first = await statusesOf('a');
    expect(new Set(first)).toEqual(new Set([0, 200, 503]));
    expect(await statusesOf('a')).toEqual(first);
    expect(await statusesOf('b')).not.toEqual(first);
  });
});

describe('a webhook', () => {
  test('is sent again, under its id and with a new signature, until it is taken', async () => {
    const { hooksUrl, heard } = await startShop((n) => (n < 2 ? 500 : 200));
    const sandbox = await start({ hooksUrl });
    sandbox.pay((await open(sandbox)).attemptId);
    await sandbox.idle();
    expect(heard).toMatchObject(Array.from({ length: 3 }, () => ({ type: 'attempt.paid', isGenuine: true })));
    expect(new Set(heard.map(({ id }) => id)).size).toBe(1);
    expect(sandbox.counts().webhooks).toMatchObject({ told: 1, delivered: 1, failedTries: 2, givenUp: 0 });
  });

  test('goes to the next URL when the one before does not take it', async () => {
    const { hooksUrl, types } = await startShop();
    const sandbox = await start({ hooksUrl: [await nowhere(), hooksUrl] });
    sandbox.pay((await open(sandbox)).attemptId);
    await sandbox.idle();
    expect(types()).toEqual(['attempt.paid']);
  });

  test('is lost where nobody hears, and sent once somebody does', async () => {
    const sandbox = await start();
    sandbox.pay((await open(sandbox)).attemptId);
    const { hooksUrl, types } = await startShop();
    sandbox.deliverTo(hooksUrl);
    await call(sandbox, '/v1/attempts/close', await open(sandbox));
    await sandbox.idle();
    expect(types()).toEqual(['attempt.closed']);
    expect(sandbox.counts().webhooks).toMatchObject({ told: 2, lost: 1 });
  });

  test('can be lost, or come twice', async () => {
    const { hooksUrl, heard } = await startShop();
    const sandbox = await start({
      hooksUrl,
      script: ({ n }) => (n === 0 ? { loseWebhookShare: 1 } : { doubleWebhookShare: 1 }),
    });
    const lost = await open(sandbox);
    const doubled = await open(sandbox);
    for (const { attemptId } of [lost, doubled]) sandbox.pay(attemptId);
    await sandbox.idle();
    expect(heard.map(({ data }) => data['attemptId'])).toEqual([doubled.attemptId, doubled.attemptId]);
    expect(heard[0]?.id).toBe(heard[1]?.id);
    expect(sandbox.counts().webhooks).toMatchObject({ told: 2, lost: 1, doubled: 1, delivered: 2 });
  });

  test('can be overtaken by the next one', async () => {
    const { hooksUrl, types } = await startShop();
    const sandbox = await start({ hooksUrl, behaviour: { reorderWebhookShare: 1 } });
    const { attemptId } = await open(sandbox);
    sandbox.startPaying(attemptId);
    sandbox.setBehaviour({ reorderWebhookShare: 0 });
    sandbox.settle(attemptId, 'paid');
    await sandbox.idle();
    expect(types()).toEqual(['attempt.paid', 'attempt.processing']);
  });

  test('can be held, and sent in the opposite order', async () => {
    const { hooksUrl, types } = await startShop();
    const sandbox = await start({ hooksUrl, behaviour: { holdWebhooks: true } });
    const { attemptId } = await open(sandbox);
    sandbox.startPaying(attemptId);
    sandbox.settle(attemptId, 'closed');
    await sandbox.idle();
    expect(types()).toEqual([]);
    await sandbox.deliverHeld({ reversed: true });
    expect(types()).toEqual(['attempt.closed', 'attempt.processing']);
    await sandbox.deliverHeld();
    expect(types()).toHaveLength(2);
  });
});

test('a sandbox stops in the middle of everything', async () => {
  const sandbox = await start({ hooksUrl: await nowhere(), behaviour: { processingMs: 3_600_000 } });
  const { attemptId } = await open(sandbox);
  sandbox.startPaying(attemptId);
  await sandbox.stop();
  expect(await call(sandbox, '/v1/attempts', order())).toMatchObject({ status: 0 });
});
