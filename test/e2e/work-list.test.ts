import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import type { Order, PaymentResult, WorkItem } from '@lapse/client';
import { signedHeaders, waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { call, type Answered } from './fleet.ts';
import { sandboxSecret, startShopWithSandbox, type ShopWithSandbox } from './shop-with-sandbox.ts';

/** Orders of this channel leave late money to a person; what the shop reports is left to one anyway. */
const manual = 'by hand';

let shop: ShopWithSandbox;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lapse-work-'));
  const file = join(folder, 'policies.json');
  await writeFile(
    file,
    JSON.stringify({
      defaults: { grace: '0s' },
      rules: [{ name: 'by hand', channel: manual, lateMoney: 'manual' }],
    }),
  );
  shop = await startShopWithSandbox({ workerCount: 1, env: { LAPSE_POLICIES: file } });
});
afterAll(async () => {
  await shop.expectRightBooks();
  await shop.stop();
  await rm(folder, { recursive: true });
});

const workList = '/v1/money/work';
const decide = (paymentId: string, decision: string, body?: unknown): Promise<Answered> =>
  call(shop.fleet, 'POST', `${workList}/${paymentId}/${decision}`, body);

/** Reports a payment as the shop does. */
function report({ id }: Order, amount = 500): Promise<PaymentResult> {
  return shop.fleet.client.pay(id, {
    provider: 'bank',
    providerPaymentId: `transfer ${randomUUID()}`,
    amount,
    currency: 'EUR',
  });
}

/** The whole work list, read in pages of two. */
async function listed(): Promise<readonly WorkItem[]> {
  const items: WorkItem[] = [];
  for (let cursor: string | null | undefined; cursor !== null;) {
    const page = await shop.fleet.client.workList({ limit: 2, ...(cursor === undefined ? {} : { cursor }) });
    items.push(...page.data);
    cursor = page.nextCursor;
  }
  return items;
}

const isListed = async (paymentId: string): Promise<boolean> =>
  (await listed()).some(({ id }) => id === paymentId);

/** An order that lapsed, and money that was reported for it later. */
async function late(order?: Order): Promise<{ order: Order; payment: PaymentResult['payment'] }> {
  const lapsed = order ?? (await shop.place({ windowMs: 1000 }));
  await shop.until(lapsed.id, 'cancelled');
  const { outcome, payment } = await report(lapsed);
  expect({ outcome, listedFor: payment.listedFor }).toEqual({ outcome: 'late', listedFor: 'unverified' });
  return { order: lapsed, payment };
}

/** What the story of an order says of the decision about a payment. */
async function auditOf(orderId: string, paymentId: string): Promise<readonly object[]> {
  const { events } = await shop.fleet.client.timeline(orderId);
  return events
    .filter(({ type, data }) => type === 'payment.resolved' && data['paymentId'] === paymentId)
    .map(({ actor, data }) => ({ actor, resolution: data['resolution'], note: data['note'] }));
}

const refusal = (status: number, code: string) => ({ status, body: { status, code } });

describe.concurrent('accept', () => {
  test('pays a pending order with what came, and its deadline is disarmed', async () => {
    const order = await shop.place();
    const { payment } = await report(order, 499);
    expect(payment).toMatchObject({ outcome: 'amount_mismatch', listedFor: 'unverified' });
    await waitFor(async () => (await shop.fleet.client.timeline(order.id)).job !== null, { what: 'its job' });
    const accepted = await decide(payment.id, 'accept', { note: 'a cent is a cent' });
    expect(accepted).toMatchObject({
      status: 200,
      body: { outcome: 'paid', resolution: 'accept', resolvedBy: 'api', note: 'a cent is a cent' },
    });
    expect(await shop.fleet.client.order(order.id)).toMatchObject({ status: 'paid', cancelledAt: null });
    const { job, events } = await shop.fleet.client.timeline(order.id);
    expect(job).toBeNull();
    expect(events.map(({ type }) => type)).toEqual([
      'order.placed',
      'payment.listed',
      'order.paid',
      'payment.resolved',
    ]);
    expect(await auditOf(order.id, payment.id)).toEqual([
      { actor: 'api', resolution: 'accept', note: 'a cent is a cent' },
    ]);
    expect(await isListed(payment.id)).toBe(false);
  });

  test('reinstates an order that lapsed, without a body, when its stock is there', async () => {
    const { order, payment } = await late();
    expect(await decide(payment.id, 'accept')).toMatchObject({ status: 200, body: { outcome: 'paid' } });
    expect(await shop.fleet.client.order(order.id)).toMatchObject({ status: 'paid', cancelReason: null });
    expect(await shop.story(order.id)).toEqual(
      expect.arrayContaining(['order.cancelled', 'order.reinstated']),
    );
  });

  test('is refused when the stock was sold meanwhile, and the payment stays listed', async () => {
    const sku = `last ${randomUUID()}`;
    await shop.fleet.client.setStock(sku, 1);
    const { payment } = await late(await shop.place({ windowMs: 1000, sku }));
    await report(await shop.place({ sku }));
    expect(await decide(payment.id, 'accept')).toMatchObject(refusal(409, 'out_of_stock'));
    expect(await isListed(payment.id)).toBe(true);
    expect(await shop.fleet.client.stock(sku)).toMatchObject({ onHand: 0, held: 0 });
  });

  test('is refused when another payment paid the order', async () => {
    const order = await shop.place();
    const { payment } = await report(order, 499);
    await report(order);
    expect(await decide(payment.id, 'accept')).toMatchObject(refusal(409, 'order_already_paid'));
    expect(await isListed(payment.id)).toBe(true);
  });

  test('is refused when the customer cancelled the order', async () => {
    const order = await shop.place();
    await shop.fleet.client.cancel(order.id);
    const { payment } = await report(order);
    expect(await decide(payment.id, 'accept')).toMatchObject(refusal(409, 'order_not_pending'));
    expect(await shop.fleet.client.order(order.id)).toMatchObject({ status: 'cancelled' });
  });

  test('is refused when the money is for no order', async () => {
    const providerPaymentId = `orderless ${randomUUID()}`;
    const body = JSON.stringify({
      type: 'attempt.paid',
      timestamp: new Date().toISOString(),
      data: { orderId: randomUUID(), capture: { providerPaymentId, amount: 500, currency: 'EUR' } },
    });
    const told = await fetch(`${shop.fleet.apis[0]?.url ?? ''}/hooks/sandbox`, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json', ...signedHeaders(sandboxSecret, body) },
    });
    expect(told.status).toBe(200);
    const item = (await listed()).find((one) => one.providerPaymentId === providerPaymentId);
    expect(await decide(item?.id ?? '', 'accept')).toMatchObject(refusal(404, 'order_not_found'));
    expect(await decide(item?.id ?? '', 'dismiss', { note: 'a test' })).toMatchObject({ status: 200 });
  });
});

describe.concurrent('refund', () => {
  test('sends the money back the way it came, and the story says who decided', async () => {
    const { order, attempt } = await shop.begin({ channel: manual });
    shop.sandbox.setBehaviour({ loseWebhookShare: 1 }, attempt.id);
    shop.sandbox.pay(attempt.id);
    // Nobody heard of the capture: the order is paid in another way, and the closing of its attempt tells.
    await report(order);
    const item = await waitFor(async () => (await listed()).find(({ orderId }) => orderId === order.id), {
      what: 'the capture on the list',
      timeoutMs: 20_000,
    });
    expect(item).toMatchObject({ outcome: 'duplicate', listedFor: 'policy', verified: true, refund: null });
    shop.sandbox.setBehaviour({ loseWebhookShare: 0 }, attempt.id);
    const decided = await decide(item.id, 'refund', { note: 'paid twice' });
    expect(decided).toMatchObject({
      status: 200,
      body: { resolution: 'refund', refund: { state: 'due', actor: 'api' } },
    });
    await shop.untilTold(order.id, 'refund.confirmed');
    expect(await auditOf(order.id, item.id)).toEqual([
      { actor: 'api', resolution: 'refund', note: 'paid twice' },
    ]);
    const { captures, refunds } = shop.sandbox.ledger();
    const capture = captures.find(({ orderId }) => orderId === order.id);
    expect(refunds.filter((one) => one.providerPaymentId === capture?.providerPaymentId).length).toBe(1);
  });

  test('needs no note, and comes back to the list where nobody can return the money over the wire', async () => {
    const { order, payment } = await late();
    expect(await decide(payment.id, 'refund')).toMatchObject({
      status: 200,
      body: { resolution: 'refund', note: null, refund: { actor: 'api' } },
    });
    await shop.untilTold(order.id, 'refund.failed');
    const item = (await listed()).find(({ id }) => id === payment.id);
    expect(item).toMatchObject({ listedFor: 'refund_failed', resolution: null, refund: { state: 'failed' } });
    expect(item?.refund?.lastReason).toContain("provider 'bank' is not connected");
  });
});

describe.concurrent('dismiss', () => {
  test('takes a payment off the list, with the reason', async () => {
    const { order, payment } = await late();
    const dismissed = await decide(payment.id, 'dismiss', { note: 'returned in the shop' });
    expect(dismissed).toMatchObject({ status: 200, body: { resolution: 'dismiss', resolvedBy: 'api' } });
    expect(await isListed(payment.id)).toBe(false);
    expect(await auditOf(order.id, payment.id)).toEqual([
      { actor: 'api', resolution: 'dismiss', note: 'returned in the shop' },
    ]);
    expect(await shop.fleet.client.order(order.id)).toMatchObject({ status: 'cancelled' });
    for (const decision of ['dismiss', 'accept', 'refund']) {
      const again = await decide(payment.id, decision, { note: 'again' });
      expect(again).toMatchObject(refusal(409, 'already_decided'));
      expect(again.body['detail']).toMatch(/^api decided dismiss at \d{4}-/);
    }
  });

  test('is done once, however many do it at the same time', async () => {
    const { order, payment } = await late();
    const answers = await Promise.all([1, 2, 3].map(() => decide(payment.id, 'dismiss', { note: 'done' })));
    expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 409, 409]);
    expect(answers.find(({ status }) => status === 409)).toMatchObject(refusal(409, 'already_decided'));
    expect((await auditOf(order.id, payment.id)).length).toBe(1);
  });

  test('needs a note that says something', async () => {
    const { payment } = await late();
    for (const body of [
      undefined,
      {},
      { note: null },
      { note: '' },
      { note: ' ' },
      { note: 'x'.repeat(1001) },
    ]) {
      const answer = await decide(payment.id, 'dismiss', body);
      expect(answer).toMatchObject(refusal(400, 'invalid_request'));
      expect(answer.body['errors']).toMatchObject([{ field: 'note' }]);
    }
    expect(await isListed(payment.id)).toBe(true);
  });
});

describe.concurrent.each(['refund', 'accept', 'dismiss'])('%s', (decision) => {
  test('of an unknown payment is a 404', async () => {
    expect(await decide(randomUUID(), decision, { note: 'x' })).toMatchObject(refusal(404, 'not_found'));
  });

  test('of what is no id is refused', async () => {
    expect(await decide('42', decision, { note: 'x' })).toMatchObject(refusal(400, 'invalid_request'));
  });

  test('with an unknown field is refused, and nothing is decided', async () => {
    const order = await shop.place();
    const { payment } = await report(order, 1);
    const answer = await decide(payment.id, decision, { note: 'x', amount: 1 });
    expect(answer).toMatchObject(refusal(400, 'invalid_request'));
    expect(answer.body['errors']).toEqual([{ field: 'amount', message: 'is not a known field' }]);
    expect(await isListed(payment.id)).toBe(true);
  });

  test('of a payment that paid its order is refused: nobody needs to decide', async () => {
    const { payment } = await report(await shop.place());
    const answer = await decide(payment.id, decision, { note: 'x' });
    expect(answer).toMatchObject(refusal(409, 'already_decided'));
    expect(answer.body['detail']).toBe('Nobody needs to decide about it.');
  });
});
