import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Bank } from './bank.ts';

/** The page at which an attempt is paid, by a click. False where something else was asked for. */
export function answerPage(bank: Bank, request: IncomingMessage, response: ServerResponse): boolean {
  const providerAttemptId = /^\/pay\/([^/?]+)$/.exec(request.url ?? '')?.[1];
  if (providerAttemptId === undefined) return false;
  const attempt = bank.attemptAt(providerAttemptId);
  if (attempt === undefined) {
    response.writeHead(404, { 'Content-Type': 'text/plain' }).end('There is nothing to pay here.\n');
    return true;
  }
  if (request.method === 'POST') {
    bank.pay(attempt.attemptId);
    response.writeHead(303, { Location: attempt.returnUrl ?? request.url }).end();
    return true;
  }
  const { orderId, amount, currency, status } = attempt;
  const button = status === 'open' ? '<form method="post"><button>Pay</button></form>' : `<p>${status}</p>`;
  response
    .writeHead(200, { 'Content-Type': 'text/html; charset=utf-8' })
    .end(
      `<!doctype html><title>Sandbox</title><h1>${amount} ${currency}</h1>` +
        `<p>in minor units, for order ${orderId}; no real money</p>${button}\n`,
    );
  return true;
}
