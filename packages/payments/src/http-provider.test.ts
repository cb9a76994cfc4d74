import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import {
  freePort,
  inParallel,
  type Sandbox,
  type SandboxBehaviour,
  signedHeaders,
  startSandbox,
} from '@lapse/devstack';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { httpProvider } from './http-provider.ts';
import type { AttemptToOpen, OpenAttempt, PaymentProvider, RefundToSend, Webhook } from './provider.ts';

const secret = secretOf(7);
const otherSecret = secretOf(8);

function secretOf(byte: number): string {
  return `whsec_${Buffer.alloc(32, byte).toString('base64')}`;
}

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

/** Listens on a free port. */
async function listen(answer: RequestListener): Promise<string> {
  const server = createServer(answer);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function toOpen(change: Partial<AttemptToOpen> = {}): AttemptToOpen {
  return {
    attemptId: randomUUID(),
    orderId: randomUUID(),
    amount: 1250,
    currency: 'EUR',
    payBy: new Date('2026-01-31T12:30:00.000Z'),
    handOff: 'url',
    returnUrl: 'https://shop.example.com/thanks',
    description: 'Order 1042',
    ...change,
  };
}

/** Opens an attempt that the provider then knows. */
async function opened(provider: PaymentProvider, attempt = toOpen()): Promise<OpenAttempt> {
  const answer = await provider.open(attempt);
  if (answer.outcome !== 'opened') throw new Error(`it was not opened: ${answer.reason}`);
  const { attemptId, orderId } = attempt;
  return { attemptId, orderId, providerAttemptId: answer.providerAttemptId };
}

/** Asks again and again until the answer says something. */
async function untilKnown<Answer extends object>(ask: () => Promise<Answer>): Promise<Answer> {
  for (;;) {
    const answer = await ask();
    if (!Object.values(answer).includes('unknown')) return answer;
  }
}

describe('a service', () => {
  let sandbox: Sandbox;
  let provider: PaymentProvider;
  beforeEach(async () => {
    sandbox = await startSandbox({ secret });
    cleanups.push(() => sandbox.stop());
    provider = httpProvider({ name: 'sandbox', url: sandbox.url, secret });
  });

  /** An attempt that was paid, and the refund of its money. */
  async function paid(): Promise<{ attempt: OpenAttempt; refund: RefundToSend }> {
    const attempt = await opened(provider);
    const payment = sandbox.pay(attempt.attemptId);
    if (payment.outcome !== 'paid') throw new Error('it was not paid');
    const { orderId, providerPaymentId, amount, currency } = payment.capture;
    return { attempt, refund: { refundId: randomUUID(), orderId, providerPaymentId, amount, currency } };
  }

  test('opens an attempt once, and gives what the customer needs', async () => {
    const attempt = toOpen();
    const answer = await provider.open(attempt);
    expect(answer).toEqual({
      outcome: 'opened',
      providerAttemptId: expect.any(String),
      handOff: { url: expect.stringMatching(`^${sandbox.url}/pay/`) },
    });
    expect(await provider.open(attempt)).toEqual(answer);
    expect(sandbox.ledger().attempts).toMatchObject([
      { attemptId: attempt.attemptId, orderId: attempt.orderId, amount: 1250, currency: 'EUR' },
    ]);
    const form = await provider.open(toOpen({ handOff: 'client_secret', payBy: null, returnUrl: null }));
    expect(form).toMatchObject({ handOff: { clientSecret: expect.any(String) } });
  });

  test('closes an attempt, and then nobody can pay', async () => {
    const attempt = await opened(provider);
    expect(await provider.look(attempt)).toEqual({ verdict: 'open' });
    expect(await provider.close(attempt)).toEqual({ verdict: 'closed' });
    expect(await provider.close(attempt)).toEqual({ verdict: 'closed' });
    expect(await provider.look(attempt)).toEqual({ verdict: 'closed' });
    expect(sandbox.pay(attempt.attemptId)).toEqual({ outcome: 'closed' });
  });

  test('says that an attempt is paid, whoever asks and however often', async () => {
    const { attempt, refund } = await paid();
    const { providerPaymentId } = refund;
    const verdict = { verdict: 'paid', capture: { providerPaymentId, amount: 1250, currency: 'EUR' } };
    expect(await provider.look(attempt)).toEqual(verdict);
    expect(await provider.close(attempt)).toEqual(verdict);
    expect(await provider.close(attempt)).toEqual(verdict);
  });

  test.each<[SandboxBehaviour['whenClosed'], string]>([
    ['paid_before', 'paid'],
    ['paid_now', 'paid'],
    ['processing_then_paid', 'processing'],
    ['processing_then_closed', 'processing'],
  ])('that finds an attempt %s when it is to be closed says so', async (whenClosed, verdict) => {
    sandbox.setBehaviour({ whenClosed });
    const attempt = await opened(provider);
    expect(await provider.close(attempt)).toMatchObject({ verdict });
    if (verdict !== 'processing') return;
    const end = whenClosed === 'processing_then_paid' ? 'paid' : 'closed';
    sandbox.settle(attempt.attemptId, end);
    expect(await provider.close(attempt)).toMatchObject({ verdict: end });
  });

  test.each<[SandboxBehaviour['refunds'], string]>([
    ['confirmed', 'confirmed'],
    ['confirmed_later', 'sent'],
    ['failed', 'refused'],
    ['failed_later', 'sent'],
  ])('answers to a refund that is %s', async (refunds, state) => {
    sandbox.setBehaviour({ refunds, refundMs: Infinity });
    const { refund } = await paid();
    expect(await provider.findRefund(refund)).toEqual({ state: 'none' });
    const answer = await provider.refund(refund);
    expect(answer).toMatchObject({ state });
    expect(await provider.refund(refund)).toEqual(answer);
    expect(await provider.findRefund(refund)).toEqual(answer);
    expect(sandbox.ledger()).toMatchObject({ refunds: [{ refundId: refund.refundId }], returnedTwice: [] });
  });

  test('refuses what it will not do, with its reason', async () => {
    sandbox.setBehaviour({ refuseToOpen: true, refunds: 'refused' });
    expect(await provider.open(toOpen())).toEqual({
      outcome: 'refused',
      reason: 'payment_refused: This customer cannot pay here.',
    });
    sandbox.setBehaviour({ refuseToOpen: false });
    const { refund } = await paid();
    expect(await provider.refund(refund)).toMatchObject({ state: 'refused', reason: /^refund_refused: / });
  });

  test('that does not know an attempt has not closed it, but is well', async () => {
    const attempt = { ...(await opened(provider)), attemptId: randomUUID() };
    for (const answer of [await provider.close(attempt), await provider.look(attempt)]) {
      expect(answer).toEqual({
        verdict: 'unknown',
        reason: 'unknown_attempt: No such attempt was opened.',
        isProviderWell: true,
      });
    }
  });

  test('that fails has said nothing', async () => {
    const { attempt, refund } = await paid();
    sandbox.setBehaviour({ failShare: 1 });
    const reason = 'The answer has status 503, out_of_order: The sandbox fails, as it was told to.';
    expect(await provider.open(toOpen())).toEqual({ outcome: 'unknown', reason });
    expect(await provider.close(attempt)).toMatchObject({
      verdict: 'unknown',
      reason,
      isProviderWell: false,
    });
    expect(await provider.look(attempt)).toMatchObject({ verdict: 'unknown', reason });
    expect(await provider.refund(refund)).toMatchObject({ state: 'unknown', reason });
    expect(await provider.findRefund(refund)).toMatchObject({ state: 'unknown', reason });
  });

  test('whose answer is lost is asked again, and does nothing twice', async () => {
    const { refund } = await paid();
    const attempt = toOpen();
    sandbox.setBehaviour({ loseAnswerShare: 1 });
    const lost = { reason: expect.stringMatching(/^No answer: /) };
    expect(await provider.open(attempt)).toMatchObject({ outcome: 'unknown', ...lost });
    expect(await provider.refund(refund)).toMatchObject({ state: 'unknown', ...lost });
    sandbox.setBehaviour({ loseAnswerShare: 0 });
    const { providerAttemptId } = await opened(provider, attempt);
    expect(await provider.findRefund(refund)).toMatchObject({ providerRefundId: expect.any(String) });
    await provider.refund(refund);
    const ledger = sandbox.ledger();
    expect(ledger.attempts.filter(({ attemptId }) => attemptId === attempt.attemptId)).toMatchObject([
      { providerAttemptId },
    ]);
    expect(ledger.refunds).toHaveLength(1);
    // A closing whose answer is lost is done as well.
    const named = { ...attempt, providerAttemptId };
    sandbox.setBehaviour({ loseAnswerShare: 1 });
    expect(await provider.close(named)).toMatchObject({ verdict: 'unknown', ...lost });
    sandbox.setBehaviour({ loseAnswerShare: 0 });
    expect(await provider.look(named)).toEqual({ verdict: 'closed' });
  });

  test('that fails and loses answers is understood in the end, and does each thing once', async () => {
    sandbox.setBehaviour({ failShare: 0.2, loseAnswerShare: 0.2 });
    const verdicts = await inParallel(90, 10, async (n) => {
      const toBeOpened = toOpen();
      const { attemptId, orderId } = toBeOpened;
      const answer = await untilKnown(() => provider.open(toBeOpened));
      if (answer.outcome !== 'opened') throw new Error(answer.outcome);
      const attempt = { attemptId, orderId, providerAttemptId: answer.providerAttemptId };
      // Some customers pay in time, some while the attempt is being closed, some not at all.
      if (n % 3 === 0) sandbox.pay(attemptId);
      const closing = untilKnown(() => provider.close(attempt));
      if (n % 3 === 1) setImmediate(() => sandbox.pay(attemptId));
      const verdict = await closing;
      if (verdict.verdict !== 'paid') return { attemptId, verdict };
      const refund = { refundId: randomUUID(), orderId, ...verdict.capture };
      expect(await untilKnown(() => provider.refund(refund))).toMatchObject({
        state: expect.stringMatching(/^(sent|confirmed)$/),
      });
      return { attemptId, verdict };
    });
    const { attempts, captures, refunds, returnedTwice } = sandbox.ledger();
    expect(attempts).toHaveLength(verdicts.length);
    for (const { attemptId, verdict } of verdicts) {
      const attempt = attempts.find((one) => one.attemptId === attemptId);
      expect(verdict).toMatchObject({ verdict: attempt?.status });
      expect(attempt?.capture ?? {}).toMatchObject(verdict.verdict === 'paid' ? verdict.capture : {});
    }
    expect(captures.length).toBeGreaterThanOrEqual(30);
    expect(refunds).toHaveLength(captures.length);
    expect(returnedTwice).toEqual([]);
  });

  test('that is too slow has said nothing', async () => {
    const { attempt, refund } = await paid();
    sandbox.setBehaviour({ slowMs: 3_600_000 });
    const impatient = httpProvider({ name: 'sandbox', url: sandbox.url, secret, timeoutMs: 100 });
    const reason = 'No answer in 100 ms.';
    expect(await impatient.close(attempt)).toMatchObject({
      verdict: 'unknown',
      reason,
      isProviderWell: false,
    });
    expect(await impatient.refund(refund)).toMatchObject({ state: 'unknown', reason });
  });

  test('that has another secret refuses nothing: it has not understood', async () => {
    const stranger = httpProvider({ name: 'sandbox', url: sandbox.url, secret: otherSecret });
    expect(await stranger.open(toOpen())).toEqual({
      outcome: 'unknown',
      reason: 'The answer has status 401, not_signed: The signature is wrong.',
    });
    expect(sandbox.ledger().attempts).toEqual([]);
  });

  test.each([`${otherSecret} ${secret}`, `${secret},${otherSecret}`])(
    'that has one of two secrets is understood, and understands',
    async (both) => {
      const changing = httpProvider({ name: 'sandbox', url: sandbox.url, secret: both });
      await opened(changing);
      for (const one of [secret, otherSecret]) {
        expect(changing.readWebhook(webhook({ type: 'other' }, { secret: one }))).toMatchObject({
          outcome: 'genuine',
        });
      }
    },
  );

  test('tells by webhook what happened', async () => {
    const heard: Webhook[] = [];
    const hooksUrl = await listen((request, response) => {
      void buffer(request).then((body) => {
        heard.push({ body, headers: request.headers as Record<string, string> });
        response.end();
      });
    });
    sandbox.deliverTo(hooksUrl);
    const attempt = await opened(provider);
    sandbox.startPaying(attempt.attemptId);
    sandbox.settle(attempt.attemptId, 'paid');
    await sandbox.idle();
    const closed = await opened(provider);
    await provider.close(closed);
    const [capture] = sandbox.ledger().captures;
    if (capture === undefined) throw new Error('nothing was paid');
    const { providerPaymentId, amount, currency, orderId } = capture;
    const refund = { refundId: randomUUID(), orderId, providerPaymentId, amount, currency };
    await provider.refund(refund);
    await sandbox.idle();
    sandbox.setBehaviour({ refunds: 'failed_later' });
    const again = { ...refund, refundId: randomUUID() };
    await provider.refund(again);
    await sandbox.idle();
    expect(heard.map(noticesOf)).toEqual([
      [{ kind: 'processing', ...attempt }],
      [{ kind: 'paid', ...attempt, capture: { providerPaymentId, amount, currency } }],
      [{ kind: 'closed', ...closed }],
      [{ kind: 'refund_confirmed', refundId: refund.refundId, providerRefundId: expect.any(String) }],
      [
        {
          kind: 'refund_failed',
          refundId: again.refundId,
          providerRefundId: expect.any(String),
          reason: 'The account of the customer was closed.',
        },
      ],
    ]);
  });
});

/** The adapter of a service that answers all calls in the same way. */
async function providerOf(answer: RequestListener, path = ''): Promise<PaymentProvider> {
  return httpProvider({ name: 'http', url: (await listen(answer)) + path, secret });
}

const json =
  (body: unknown, status = 200, type = 'application/json'): RequestListener =>
  (_, response) =>
    response.writeHead(status, { 'Content-Type': type }).end(JSON.stringify(body));

describe('an answer', () => {
  const attempt = { attemptId: randomUUID(), orderId: randomUUID(), providerAttemptId: 'att_1' };
  const { attemptId } = attempt;
  const refund = {
    refundId: randomUUID(),
    orderId: null,
    providerPaymentId: 'p',
    amount: 1,
    currency: 'EUR',
  };
  const { refundId } = refund;
  const capture = { providerPaymentId: 'pay_1', amount: 1250, currency: 'EUR' };

  test.each<[string, RequestListener, RegExp]>([
    ['no JSON', (_, response) => response.end('<h1>closed</h1>'), /^The answer is not of the protocol/],
    ['JSON that breaks off', (_, response) => response.end('{"status":"closed"'), /^The answer is not of/],
    ['nothing', (_, response) => response.end(), /^The answer is not of the protocol/],
    ['no content', (_, response) => response.writeHead(204).end(), /^The answer is not of the protocol/],
    ['null', json(null), /^The answer is not of the protocol/],
    ['a status alone', json({ status: 'closed' }), /attemptId/],
    ['an unknown status', json({ attemptId, status: 'gone' }), /status/],
    ['another attempt', json({ attemptId: randomUUID(), status: 'closed' }), /about another attempt/],
    [
      'money without a name',
      json({ attemptId, status: 'paid', capture: { ...capture, providerPaymentId: '' } }),
      /^The answer is not of the protocol: capture.providerPaymentId/,
    ],
    ['no money', json({ attemptId, status: 'paid' }), /capture/],
    [
      'half a cent',
      json({ attemptId, status: 'paid', capture: { ...capture, amount: 0.5 } }),
      /capture.amount/,
    ],
    [
      'an amount as text',
      json({ attemptId, status: 'paid', capture: { ...capture, amount: '1250' } }),
      /capture.amount/,
    ],
    [
      'euros',
      json({ attemptId, status: 'paid', capture: { ...capture, currency: 'eur' } }),
      /capture.currency/,
    ],
    [
      'an error page',
      (_, response) => response.writeHead(404).end('<h1>Not found</h1>'),
      /has status 404\.$/,
    ],
    [
      'a refusal without a code',
      json({ status: 404, title: 'Not Found' }, 404, 'application/problem+json'),
      /has status 404\.$/,
    ],
    ['a refusal of another type', json({ code: 'refused' }, 422), /has status 422\.$/],
    [
      'too many calls',
      json({ code: 'rate_limited' }, 429, 'application/problem+json'),
      /has status 429, rate_limited$/,
    ],
    ['a connection that breaks', (request) => request.socket.destroy(), /^No answer: /],
    [
      'half an answer',
      (_, response) => {
        response.writeHead(200, { 'Content-Length': 100 }).write('{"status"');
        response.flushHeaders();
        response.socket?.end();
      },
      /^No answer: /,
    ],
    ['no HTTP', (request) => void request.socket.end('hello\r\n\r\n'), /^No answer: /],
  ])('of %s says nothing', async (_, answer, reason) => {
    const provider = await providerOf(answer);
    const unknown = { verdict: 'unknown', reason: expect.stringMatching(reason), isProviderWell: false };
    expect(await provider.close(attempt)).toEqual(unknown);
    expect(await provider.look(attempt)).toEqual(unknown);
    expect(await provider.open(toOpen())).toMatchObject({ outcome: 'unknown' });
    expect(await provider.refund(refund)).toMatchObject({ state: 'unknown' });
    expect(await provider.findRefund(refund)).toMatchObject({ state: 'unknown' });
  });

  test('to a closing that the attempt is still open is no promise', async () => {
    const provider = await providerOf(json({ attemptId, status: 'open' }));
    expect(await provider.look(attempt)).toEqual({ verdict: 'open' });
    expect(await provider.close(attempt)).toMatchObject({ verdict: 'unknown', isProviderWell: true });
  });

  test('to a refund that there is none does not confirm it, and a refusal to look for one does not refuse it', async () => {
    const none = await providerOf(json({ refundId, status: 'none' }));
    expect(await none.refund(refund)).toMatchObject({ state: 'unknown', isProviderWell: true });
    expect(await none.findRefund(refund)).toEqual({ state: 'none' });
    const refusing = await providerOf(json({ code: 'gone' }, 410, 'application/problem+json'));
    expect(await refusing.refund(refund)).toEqual({ state: 'refused', reason: 'gone' });
    expect(await refusing.findRefund(refund)).toMatchObject({ state: 'unknown', reason: 'gone' });
  });

  test('that leads elsewhere is not followed', async () => {
    const asked: (string | undefined)[] = [];
    const provider = await providerOf((request, response) => {
      asked.push(request.url);
      if (request.url === '/v1/attempts/close') response.writeHead(307, { Location: '/elsewhere' }).end();
      else response.end(JSON.stringify({ attemptId, status: 'closed' }));
    });
    expect(await provider.close(attempt)).toMatchObject({
      verdict: 'unknown',
      reason: 'The answer has status 307.',
    });
    expect(asked).toEqual(['/v1/attempts/close']);
  });

  test('without an end is not read to the end', async () => {
    const provider = await providerOf((_, response) => {
      response.writeHead(200, { 'Content-Type': 'application/json' });
      const write = (): void => {
        while (response.write(' '.repeat(16_384)));
        response.once('drain', write);
      };
      write();
    });
    expect(await provider.close(attempt)).toMatchObject({
      verdict: 'unknown',
      reason: 'The answer, with status 200, is too long.',
    });
  });

  test('that stops in the middle is given up in time', async () => {
    const url = await listen((_, response) => void response.writeHead(200).write('{"status":'));
    const provider = httpProvider({ name: 'http', url, secret, timeoutMs: 100 });
    expect(await provider.close(attempt)).toMatchObject({ reason: 'No answer in 100 ms.' });
  });

  test('of a service that is not there is none', async () => {
    const lonely = httpProvider({ name: 'http', url: `http://127.0.0.1:${await freePort()}`, secret });
    expect(await lonely.close(attempt)).toMatchObject({
      verdict: 'unknown',
      reason: expect.stringContaining('ECONNREFUSED'),
    });
  });

  test('may give the customer a text, and no URL that a page could not be at', async () => {
    const asked = toOpen();
    const handing = (handOff: object) =>
      providerOf(json({ attemptId: asked.attemptId, providerAttemptId: 'att_1', handOff, more: true }));
    const instructions = 'Transfer it to\nDE02 1203 0000 0000 2020 51';
    expect(await (await handing({ instructions })).open(asked)).toEqual({
      outcome: 'opened',
      providerAttemptId: 'att_1',
      handOff: { instructions },
    });
    for (const bad of [{}, { url: 'javascript:alert(1)' }, { url: 'nowhere' }, { instructions: '\0' }]) {
      expect(await (await handing(bad)).open(asked)).toMatchObject({ outcome: 'unknown' });
    }
  });

  test('gives reasons that can be stored', async () => {
    const detail = `no\0 \n way \ud800 ${'x'.repeat(1000)}`;
    const provider = await providerOf(json({ code: 'no', detail }, 422, 'application/problem+json'));
    const answer = await provider.open(toOpen());
    if (answer.outcome !== 'refused') throw new Error('it was not refused');
    expect(answer.reason).toMatch(/^no: no {2,}way \ufffd x+$/);
    expect(answer.reason.length).toBeLessThan(600);
  });

  test.each(['/lapse', '/lapse/'])('is asked for below the path of the URL, %s', async (path) => {
    const asked: string[] = [];
    const provider = await providerOf((request, response) => {
      asked.push(`${request.method} ${request.url} ${request.headers['content-type']}`);
      json({ attemptId, status: 'closed' })(request, response);
    }, path);
    expect(await provider.close(attempt)).toEqual({ verdict: 'closed' });
    expect(asked).toEqual(['POST /lapse/v1/attempts/close application/json']);
  });
});

/** A webhook of the service: signed as it should be, unless something else is said. */
function webhook(
  message: unknown,
  options: { secret?: string; at?: Date; id?: string; headers?: Record<string, string | undefined> } = {},
): Webhook {
  const text = typeof message === 'string' ? message : JSON.stringify(message);
  const { at = new Date(), id = 'msg_1' } = options;
  const signed = signedHeaders(options.secret ?? secret, text, { at, id });
  return { body: Buffer.from(text), headers: { ...signed, ...options.headers } };
}

function minutesAgo(minutes: number): Date {
  return new Date(Date.now() - minutes * 60_000);
}

/** An adapter whose service is not asked. */
const provider = httpProvider({ name: 'http', url: 'http://127.0.0.1:1', secret });

/** What a webhook tells; where it is not genuine, why. */
function noticesOf(one: Webhook) {
  const answer = provider.readWebhook(one);
  return answer.outcome === 'genuine' ? answer.notices : answer;
}

describe('a webhook', () => {
  const [attemptId, orderId, refundId] = [randomUUID(), randomUUID(), randomUUID()];
  const capture = { providerPaymentId: 'pay_1', amount: 1250, currency: 'EUR' };
  const paid = {
    type: 'attempt.paid',
    timestamp: '2026-01-31T12:10:31.000Z',
    data: { attemptId, orderId, providerAttemptId: 'att_1', capture },
  };
  const notice = { kind: 'paid', attemptId, orderId, providerAttemptId: 'att_1', capture };

  test('is genuine with a signature of its body, one of several, an old or a coming one', () => {
    const genuine = { outcome: 'genuine', notices: [notice] };
    expect(provider.readWebhook(webhook(paid))).toEqual(genuine);
    const { 'webhook-signature': good = '' } = webhook(paid).headers;
    const { 'webhook-signature': bad = '' } = webhook(paid, { secret: otherSecret }).headers;
    const several = webhook(paid, { headers: { 'webhook-signature': `v1a,x ${bad} ${good}` } });
    expect(provider.readWebhook(several)).toEqual(genuine);
    for (const at of [minutesAgo(4.9), minutesAgo(-4.9)]) {
      expect(provider.readWebhook(webhook(paid, { at }))).toEqual(genuine);
    }
  });

  test.each<[string, () => Webhook]>([
    ['without a signature', () => webhook(paid, { headers: { 'webhook-signature': undefined } })],
    ['without an id', () => webhook(paid, { headers: { 'webhook-id': undefined } })],
    ['without a time', () => webhook(paid, { headers: { 'webhook-timestamp': undefined } })],
    ['without any of them', () => ({ body: Buffer.from(JSON.stringify(paid)), headers: {} })],
    ['signed with another secret', () => webhook(paid, { secret: otherSecret })],
    ['with another body', () => ({ ...webhook(paid), body: Buffer.from('{}') })],
    ['with a space more', () => ({ ...webhook(paid), body: Buffer.from(`${JSON.stringify(paid)} `) })],
    ['with another id', () => webhook(paid, { headers: { 'webhook-id': 'msg_2' } })],
    [
      'with another time',
      () =>
        webhook(paid, {
          at: minutesAgo(1),
          headers: { 'webhook-timestamp': String(Math.floor(Date.now() / 1000)) },
        }),
    ],
    ['with no number as its time', () => webhook(paid, { headers: { 'webhook-timestamp': 'now' } })],
    ['with an empty signature', () => webhook(paid, { headers: { 'webhook-signature': '' } })],
    ['with a scheme alone', () => webhook(paid, { headers: { 'webhook-signature': 'v1, v1' } })],
    [
      'with a signature of no scheme',
      () => {
        const signed = webhook(paid);
        const signature = signed.headers['webhook-signature']?.replace('v1,', '');
        return { ...signed, headers: { ...signed.headers, 'webhook-signature': signature } };
      },
    ],
    ['forged and old', () => webhook(paid, { secret: otherSecret, at: minutesAgo(10) })],
    ['that is not UTF-8', () => ({ ...webhook('\ufffd'), body: Buffer.from([0xff]) })],
  ])('%s is forged', (_, forge) => {
    expect(provider.readWebhook(forge())).toMatchObject({ outcome: 'forged', reason: expect.any(String) });
  });

  test('whose signed text can be cut otherwise, with a part of the body as its time, is forged', () => {
    const now = Math.floor(Date.now() / 1000);
    const text = `{"note":".${now}.1"}`;
    const old = webhook(text, { at: minutesAgo(60) });
    const [head = '', rest = ''] = text.split(`.${now}.`);
    const id = `msg_1.${old.headers['webhook-timestamp']}.${head}`;
    const headers = { ...old.headers, 'webhook-id': id, 'webhook-timestamp': String(now) };
    expect(provider.readWebhook({ body: Buffer.from(rest), headers })).toMatchObject({ outcome: 'forged' });
  });

  test.each([10, -10])('that was signed %i minutes ago is stale, however genuine', (minutes) => {
    expect(provider.readWebhook(webhook(paid, { at: minutesAgo(minutes) }))).toMatchObject({
      outcome: 'stale',
      reason: expect.stringMatching(
        /^It was signed (599|600|601) s (ago|ahead of our clock); the limit is 300 s\.$/,
      ),
    });
  });

  test.each<[string, unknown]>([
    ['no JSON', 'hello'],
    ['no object', '[]'],
    ['no type', { data: {} }],
    ['no money', { ...paid, data: { attemptId, orderId, providerAttemptId: 'att_1' } }],
    ['money without a name', { ...paid, data: { capture: { ...capture, providerPaymentId: null } } }],
    ['less than nothing', { ...paid, data: { ...paid.data, capture: { ...capture, amount: -1 } } }],
    ['a closing of no attempt', { type: 'attempt.closed', data: { orderId } }],
    ['a closing of an attempt that is not ours', { type: 'attempt.closed', data: { attemptId: '1' } }],
    ['a refund without a name', { type: 'refund.confirmed', data: { refundId } }],
    ['a failure without a reason', { type: 'refund.failed', data: { refundId, providerRefundId: 'r' } }],
    ['no data', { type: 'attempt.paid' }],
  ])('with %s is malformed', (_, message) => {
    expect(provider.readWebhook(webhook(message))).toMatchObject({
      outcome: 'malformed',
      reason: expect.any(String),
    });
  });

  test('with money is heard, whatever is wrong with the order', () => {
    for (const names of [{}, { attemptId: null, orderId: null }, { attemptId: 'A-1', orderId: 1042 }]) {
      expect(provider.readWebhook(webhook({ type: 'attempt.paid', data: { ...names, capture } }))).toEqual({
        outcome: 'genuine',
        notices: [{ kind: 'paid', attemptId: null, orderId: null, providerAttemptId: null, capture }],
      });
    }
  });

  test('about an attempt may name it by either id, and a refund by both', () => {
    const nobody = { attemptId: null, orderId: null, providerAttemptId: null };
    expect(noticesOf(webhook({ type: 'attempt.closed', data: { attemptId } }))).toEqual([
      { kind: 'closed', ...nobody, attemptId },
    ]);
    expect(noticesOf(webhook({ type: 'attempt.processing', data: { providerAttemptId: 'att_1' } }))).toEqual([
      { kind: 'processing', ...nobody, providerAttemptId: 'att_1' },
    ]);
    expect(noticesOf(webhook({ type: 'refund.confirmed', data: { providerRefundId: 'ref_1' } }))).toEqual([
      { kind: 'refund_confirmed', refundId: null, providerRefundId: 'ref_1' },
    ]);
  });

  test.each(['attempt.created', 'toString', '__proto__'])('of the type %s tells nothing', (type) => {
    expect(provider.readWebhook(webhook({ type, data: { capture } }))).toEqual({
      outcome: 'genuine',
      notices: [],
    });
  });
});
