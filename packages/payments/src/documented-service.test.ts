import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { spawnGuarded } from '@lapse/devstack';
import { Webhook as Signer } from 'standardwebhooks';
import { expect, onTestFinished, test } from 'vitest';
import { httpProvider } from './http-provider.ts';
import type { PaymentProvider, WebhookAnswer } from './provider.ts';

// What docs/providers.md tells a shop's engineer, and the service that it offers to begin with.

const secret = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
const docs = new URL('../../../docs/', import.meta.url);
const page = await readFile(new URL('providers.md', docs), 'utf8');

/** Runs the documented service, and hears its webhooks. */
async function startService(): Promise<{ provider: PaymentProvider; heard: Promise<WebhookAnswer> }> {
  const { promise: heard, resolve: hear } = Promise.withResolvers<WebhookAnswer>();
  const hooks = createServer((request, response) => {
    void buffer(request).then((body) => {
      response.end();
      hear(provider.readWebhook({ body, headers: request.headers as Record<string, string> }));
    });
  });
  hooks.listen(0, '127.0.0.1');
  await once(hooks, 'listening');
  const hooksUrl = `http://127.0.0.1:${(hooks.address() as AddressInfo).port}/hooks/http`;
  const { promise: url, resolve: listens } = Promise.withResolvers<string>();
  const service = await spawnGuarded(
    process.execPath,
    [fileURLToPath(new URL('payment-service.mjs', docs))],
    {
      name: 'payment-service',
      env: { SECRET: secret, HOOKS_URL: hooksUrl, PORT: '0' },
      onLine: listens,
    },
  );
  onTestFinished(async () => {
    await service.stop();
    hooks.close();
    hooks.closeAllConnections();
  });
  const provider = httpProvider({ name: 'http', url: await url, secret });
  return { provider, heard };
}

/** A new attempt to open. */
function newAttempt() {
  return {
    attemptId: randomUUID(),
    orderId: randomUUID(),
    amount: 1250,
    currency: 'EUR',
    payBy: null,
    handOff: 'url' as const,
    returnUrl: null,
    description: 'Order 1042',
  };
}

test('the documented service keeps its three promises', async () => {
  const { provider, heard } = await startService();
  const open = async (asked: ReturnType<typeof newAttempt>) => {
    const answer = await provider.open(asked);
    if (answer.outcome !== 'opened') throw new Error(answer.reason);
    return { ...asked, providerAttemptId: answer.providerAttemptId, url: answer.handOff.url ?? '' };
  };

  const unpaid = await open(newAttempt());
  expect(await open(unpaid)).toEqual(unpaid);
  expect(await provider.look(unpaid)).toEqual({ verdict: 'open' });
  expect(await provider.close(unpaid)).toEqual({ verdict: 'closed' });
  expect(await fetch(unpaid.url, { method: 'POST' })).toMatchObject({ status: 410 });

  const paid = await open(newAttempt());
  expect(await fetch(paid.url, { method: 'POST' })).toMatchObject({ status: 200 });
  const verdict = await provider.close(paid);
  if (verdict.verdict !== 'paid') throw new Error(verdict.verdict);
  const { capture } = verdict;
  expect(capture).toMatchObject({ amount: 1250, currency: 'EUR' });
  const { attemptId, orderId, providerAttemptId } = paid;
  expect(await heard).toEqual({
    outcome: 'genuine',
    notices: [{ kind: 'paid', attemptId, orderId, providerAttemptId, capture }],
  });

  const refund = { refundId: randomUUID(), orderId, ...capture };
  expect(await provider.findRefund(refund)).toEqual({ state: 'none' });
  const sent = await provider.refund(refund);
  expect(sent).toMatchObject({ state: 'confirmed' });
  expect(await provider.refund(refund)).toEqual(sent);
  expect(await provider.findRefund(refund)).toEqual(sent);
  const unknown = { ...refund, refundId: randomUUID(), providerPaymentId: 'pay_other' };
  expect(await provider.refund(unknown)).toMatchObject({ state: 'refused' });
  expect(await provider.close({ ...unpaid, attemptId: randomUUID() })).toMatchObject({ verdict: 'unknown' });
});

test('the page shows what the service does to check a signature', async () => {
  const service = await readFile(new URL('payment-service.mjs', docs), 'utf8');
  const blocks = [...page.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code = '']) => code);
  expect(blocks).toHaveLength(1);
  for (const block of blocks) expect(service).toContain(block);
});

test('the example of a signature on the page is right', () => {
  const rows = [...page.matchAll(/^\| `?([a-z-]+)`? \| `([^`]+)` \|$/gm)];
  const example = Object.fromEntries(rows.map(([, name = '', value = '']) => [name, value]));
  const signer = new Signer(example['secret'] ?? '');
  const signedAt = new Date(Number(example['webhook-timestamp']) * 1000);
  const signature = signer.sign(example['webhook-id'] ?? '', signedAt, example['body'] ?? '');
  expect(example).toMatchObject({ 'webhook-signature': signature });
});
