// A payment service that Lapse can use, without a bank behind it: docs/providers.md. Node 20, no packages.
//
//   SECRET=whsec_… HOOKS_URL=http://127.0.0.1:3000/hooks/http PORT=4000 node docs/payment-service.mjs
//
// What it knows is gone when it ends. A real one keeps `attempts` and `refunds` in tables.

import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';

const key = Buffer.from(process.env.SECRET.replace('whsec_', ''), 'base64');

function sign(id, seconds, body) {
  return `v1,${createHmac('sha256', key).update(`${id}.${seconds}.${body}`).digest('base64')}`;
}

// `body` is the text as it came: before JSON.parse, which would lose how it was written.
function isGenuine(headers, body) {
  const { 'webhook-id': id, 'webhook-timestamp': seconds, 'webhook-signature': signatures } = headers;
  if (!id || !seconds || !signatures) return false;
  if (!(Math.abs(Date.now() / 1000 - Number(seconds)) <= 300)) return false;
  const expected = Buffer.from(sign(id, seconds, body));
  return signatures.split(' ').some((signature) => {
    const given = Buffer.from(signature);
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
}

/** Tells Lapse. Again and again until it answers 2xx: a real service keeps what is to be told in a table as well. */
async function tell(type, data, id = `evt_${randomUUID()}`, pauseMs = 1000) {
  const body = JSON.stringify({ type, timestamp: new Date().toISOString(), data });
  const seconds = String(Math.floor(Date.now() / 1000));
  const response = await fetch(process.env.HOOKS_URL, {
    method: 'POST',
    headers: {
      'Content-Type': 'application/json',
      'webhook-id': id,
      'webhook-timestamp': seconds,
      'webhook-signature': sign(id, seconds, body),
    },
    body,
  }).catch(() => undefined);
  if (!response?.ok) setTimeout(() => tell(type, data, id, Math.min(pauseMs * 2, 60_000)), pauseMs);
}

const attempts = new Map();
const refunds = new Map();

class Refusal extends Error {
  constructor(status, code, detail) {
    super(detail);
    Object.assign(this, { status, code });
  }
}

function attemptOf({ attemptId }) {
  const attempt = attempts.get(attemptId);
  if (!attempt) throw new Refusal(404, 'unknown_attempt', 'It was never opened.');
  return attempt;
}

function stateOf({ attemptId, status, capture }) {
  return status === 'paid' ? { attemptId, status, capture } : { attemptId, status };
}

const calls = {
  '/v1/attempts'({ attemptId, orderId, amount, currency }) {
    // Called again it must answer the same, so it looks first. In SQL: INSERT … ON CONFLICT DO NOTHING, then SELECT.
    if (!attempts.has(attemptId)) {
      const providerAttemptId = randomUUID();
      attempts.set(attemptId, { attemptId, orderId, providerAttemptId, amount, currency, status: 'open' });
    }
    const { providerAttemptId } = attempts.get(attemptId);
    const url = `http://127.0.0.1:${server.address().port}/pay/${providerAttemptId}`;
    return { attemptId, providerAttemptId, handOff: { url } };
  },

  '/v1/attempts/close'(asked) {
    const attempt = attemptOf(asked);
    // Closing and paying must exclude each other. In SQL: UPDATE … SET status = 'closed' WHERE status = 'open'.
    if (attempt.status === 'open') attempt.status = 'closed';
    return stateOf(attempt);
  },

  '/v1/attempts/look': (asked) => stateOf(attemptOf(asked)),

  '/v1/refunds'({ refundId, providerPaymentId, amount, currency }) {
    const isKnown = [...attempts.values()].some(
      ({ capture }) => capture?.providerPaymentId === providerPaymentId,
    );
    if (!isKnown) throw new Refusal(422, 'unknown_payment', 'It was never taken.');
    if (!refunds.has(refundId)) {
      refunds.set(refundId, {
        refundId,
        providerRefundId: randomUUID(),
        status: 'confirmed',
        amount,
        currency,
      });
    }
    const { providerRefundId, status } = refunds.get(refundId);
    return { refundId, providerRefundId, status };
  },

  '/v1/refunds/find'({ refundId }) {
    const refund = refunds.get(refundId);
    if (!refund) return { refundId, status: 'none' };
    return { refundId, providerRefundId: refund.providerRefundId, status: refund.status };
  },
};

/** What a customer's click does. */
function pay(providerAttemptId) {
  const attempt = [...attempts.values()].find((one) => one.providerAttemptId === providerAttemptId);
  if (attempt?.status !== 'open') return false;
  const { attemptId, orderId, amount, currency } = attempt;
  attempt.capture = { providerPaymentId: randomUUID(), amount, currency };
  attempt.status = 'paid';
  void tell('attempt.paid', { attemptId, orderId, providerAttemptId, capture: attempt.capture });
  return true;
}

const server = createServer(async (request, response) => {
  const send = (status, body, type = 'application/json') =>
    response.writeHead(status, { 'Content-Type': type }).end(JSON.stringify(body));
  const refuse = (status, code, detail) => send(status, { status, code, detail }, 'application/problem+json');
  const body = await text(request);
  const path = request.url;
  if (path.startsWith('/pay/')) {
    if (request.method === 'POST') return send(pay(path.slice('/pay/'.length)) ? 200 : 410, {});
    return response.writeHead(200, { 'Content-Type': 'text/html' }).end('<form method=post><button>Pay');
  }
  if (!isGenuine(request.headers, body)) return refuse(401, 'not_signed', 'The signature is wrong or old.');
  const asked = JSON.parse(body);
  // The path is not signed: it is believed because the body says the same.
  if (asked.call !== path || !calls[path]) return refuse(404, 'unknown_call', 'There is no such call.');
  try {
    send(200, calls[path](asked));
  } catch (error) {
    if (error instanceof Refusal) refuse(error.status, error.code, error.message);
    else send(500, {});
  }
});

server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
