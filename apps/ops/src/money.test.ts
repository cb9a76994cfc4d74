import { createTestDatabase, type TestDatabase } from '@lapse/devstack';
import type { Order, Payment, PaymentAttempt } from '@lapse/orders';
import { createLog, openDatabase, type Database } from '@lapse/runtime';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { emptyRedis, form, place, startOps, type TestOps } from './testing.ts';

// A Redis database of this file's own.
const redisUrl = `${inject('redisUrl')}/10`;
let own: TestDatabase;
let database: Database;
let ops: TestOps;
let get: (path: string, init?: RequestInit) => Promise<Response>;
const logged: string[] = [];

beforeAll(async () => {
  own = await createTestDatabase({ adminUrl: inject('databaseUrl'), template: inject('templateDatabase') });
  await emptyRedis(redisUrl);
  database = openDatabase({ url: own.url, app: 'test', log: createLog('test', 'error'), max: 1 });
  ops = await startOps({ databaseUrl: own.url, redisUrl, logged });
  await ops.orders.setStock('tea', null);
  get = await ops.signIn();
});

afterAll(async () => {
  await database.end();
  await ops.stop();
  await own.drop();
});

async function page(path: string): Promise<string> {
  const response = await get(path);
  expect(response.status).toBe(200);
  return response.text();
}

async function openAttempt(orderId: string, provider = 'wallet'): Promise<PaymentAttempt> {
  const wish = { orderId, provider, handOffAs: 'url', returnUrl: null, actor: 'test' } as const;
  const begun = await ops.orders.beginAttempt(wish);
  if (begun.outcome !== 'opening') throw new Error(`the attempt did not begin: ${begun.outcome}`);
  const { id } = begun.attempt;
  await ops.orders.recordOpened({ attemptId: id, providerAttemptId: `page-of-${id}`, handOff: {} });
  return begun.attempt;
}

/** Moves an order into the past, and expires it. */
async function expire({ id }: Order): Promise<void> {
  await database.query(
    `update orders set created_at = created_at - interval '1 hour', deadline_at = deadline_at - interval '1 hour',
       expire_at = expire_at - interval '1 hour', check_at = check_at - interval '1 hour'
     where id = $1`,
    [id],
  );
  await ops.orders.expire([id], 'test');
}

/** Money that somebody told of, and that pays the order only if it is of the right amount. */
async function report(order: Order, changes: { amount?: number; verified?: boolean } = {}): Promise<Payment> {
  const answer = await ops.orders.pay({
    orderId: order.id,
    provider: 'bank',
    providerPaymentId: `transfer-${order.id}`,
    amount: order.amount,
    currency: order.currency,
    verified: false,
    actor: 'test',
    ...changes,
  });
  if (!('payment' in answer)) throw new Error(`the payment was not recorded: ${answer.outcome}`);
  return answer.payment;
}

/** A payment that waits for a person: its order is pending, and it is 1 short. */
async function aListed(): Promise<{ order: Order; payment: Payment }> {
  const order = await place(ops);
  return { order, payment: await report(order, { amount: order.amount - 1 }) };
}

const workList = '/work';

/** Decides as a browser would, and answers where it is led and what it is told there. */
async function decide(
  paymentId: string,
  fields: Record<string, string>,
): Promise<{ status: number; body: string }> {
  const answer = await get(`${workList}/${paymentId}`, form(fields));
  const to = answer.headers.get('location');
  return { status: answer.status, body: to === null ? await answer.text() : await page(to) };
}

/** A payment of an order, as it is now. */
async function payment(of: Order): Promise<Payment | undefined> {
  return (await ops.orders.payments(of.id))[0];
}

describe('the page of an order', () => {
  test('shows its payment attempts, what their providers said and since when, and that it is being closed', async () => {
    const order = await place(ops);
    const refused = await openAttempt(order.id, 'bank');
    await ops.orders.recordVerdict({
      attemptId: refused.id,
      verdict: 'refused',
      reason: 'no <such> card',
      actor: 'test',
    });
    const { id: attemptId } = await openAttempt(order.id);
    expect(await page(`/orders/${order.id}`)).not.toContain('being closed');
    await expire(order);
    await ops.deadlines.disarm({ orderId: order.id, partition: order.partition });
    await ops.orders.recordVerdict({ attemptId, verdict: 'unknown', reason: 'it timed out', actor: 'test' });

    const body = await page(`/orders/${order.id}`);
    const [, attempt] = await ops.orders.attempts(order.id);
    const since = await ops.orders.closingSince(order.id);
    await ops.orders.recordVerdict({ attemptId, verdict: 'closed', actor: 'test' });
    expect(body).toMatch(new RegExp(`being closed</dt><dd>since <time datetime="${since?.toISOString()}">`));
    expect(body).toContain('No job; its payment providers are being asked.');
    expect(body).toContain(`page-of-${attemptId}`);
    expect(body).toMatch(
      new RegExp(`no answer, since <time datetime="${attempt?.verdictSince?.toISOString()}">`),
    );
    expect(body).toContain('it timed out');
    expect(body).toContain('no &lt;such&gt; card');
    expect(body).toContain('<span class="badge refused">refused</span>');
  });

  test('shows the way back of a payment: its state, how often it was tried, and why not yet', async () => {
    const order = await place(ops);
    await ops.orders.cancel({ orderId: order.id, reason: 'customer', actor: 'test' });
    await report(order, { verified: true });
    const [refund] = await ops.orders.claimRefunds(100);
    if (refund === undefined) throw new Error('no refund is due');
    await ops.orders.recordRefund(
      { refundId: refund.id },
      { state: 'unknown', reason: 'the bank sleeps', actor: 'test' },
    );
    const trying = await page(`/orders/${order.id}`);
    expect(trying).toContain('<span class="badge refund-due">to be sent</span>');
    expect(trying).toContain('1 try: the bank sleeps');
    expect(await page('/')).toMatch(/Refunds under way<\/dt>\s*<dd>1<\/dd>\s*<dd class="note">1 to be sent/);

    const sent = { state: 'confirmed', providerRefundId: 're_1', actor: 'test' } as const;
    await ops.orders.recordRefund({ refundId: refund.id }, sent);
    const confirmed = await page(`/orders/${order.id}`);
    expect(confirmed).toContain('<span class="badge refund-confirmed">confirmed</span>');
    expect(confirmed).toContain('re_1');
    expect(await page('/')).toContain('no money is on its way back');
  });

  test('says of an order without a deadline that it waits for ever', async () => {
    const order = await place(ops, { reference: 'for ever' });
    await database.query(
      `update orders set deadline_at = 'infinity', expire_at = 'infinity', check_at = 'infinity' where id = $1`,
      [order.id],
    );
    await ops.deadlines.disarm({ orderId: order.id, partition: order.partition });
    const { id } = await ops.orders.freeze({ reason: 'everything', actor: 'anna' });
    const body = await page(`/orders/${order.id}`);
    const list = await page('/orders?q=for%20ever');
    await ops.orders.thaw(id, 'test');
    while ((await ops.orders.thawStep(100)).state !== 'idle');

    expect(body).toMatch(/deadline<\/dt><dd>none <small class="remaining">waits for ever/);
    expect(body).toContain('No job; the order waits for ever.');
    expect(body).not.toContain('The clock is frozen');
    expect(list).toContain('waits for ever');
  });
});

test('a freeze of some orders is announced with its scope, and at the orders in its scope', async () => {
  const [web, app] = [await place(ops, { channel: 'web' }), await place(ops, { channel: 'app' })];
  const ofWeb = await ops.orders.freeze({ reason: 'slow', actor: 'anna', scope: { channel: 'web' } });
  const ofWallet = await ops.orders.freeze({
    reason: 'down',
    actor: 'bert',
    scope: { provider: 'wallet', paymentMethod: 'card' },
  });
  const overview = await page('/');
  const [ofIn, ofOut] = await Promise.all([page(`/orders/${web.id}`), page(`/orders/${app.id}`)]);
  for (const { id } of [ofWeb, ofWallet]) await ops.orders.thaw(id, 'test');
  const thawing = await page('/');
  while ((await ops.orders.thawStep(100)).state !== 'idle');

  expect(overview).toContain('<dd>partly frozen</dd>');
  expect(overview).toContain('No order of channel web expires');
  expect(overview).toContain('No order with payment method card, with an attempt at wallet expires');
  expect(ofIn).toContain('No order of channel web expires');
  expect(ofIn).not.toContain('wallet');
  expect(ofOut).not.toContain('The clock is frozen');
  expect(thawing).toContain('Deadlines of orders of channel web are being moved');
  expect(thawing).toContain('<dd>thawing</dd>');
});

test('every freeze that is on is announced, however many there are', async () => {
  const channels = Array.from({ length: 7 }, (_, n) => `channel-${n}`);
  const ids: string[] = [];
  for (const channel of channels)
    ids.push((await ops.orders.freeze({ reason: 'many', actor: 'anna', scope: { channel } })).id);
  ids.push((await ops.orders.freeze({ reason: 'of everybody', actor: 'anna' })).id);
  const overview = await page('/');
  for (const id of ids) await ops.orders.thaw(id, 'test');
  while ((await ops.orders.thawStep(100)).state !== 'idle');

  for (const channel of channels) expect(overview).toContain(`No order of channel ${channel} expires`);
  expect(overview).toContain('<dd>frozen</dd>');
});

test('the orders that providers hold are listed, those held longest first, fifty a page', async () => {
  expect(await page('/held')).toContain('No provider holds an order.');
  const orders: Order[] = [];
  for (let n = 0; n < 51; n += 1) {
    const order = await place(ops, { reference: `held-${n}` });
    const { id: attemptId } = await openAttempt(order.id);
    const verdict = n === 1 ? 'processing' : 'unknown';
    await ops.orders.recordVerdict({ attemptId, verdict, reason: `reason <${n}>`, actor: 'test' });
    orders.push(order);
  }
  const [longest] = orders;
  if (longest === undefined) throw new Error('none was placed');
  await expire(longest);
  const first = await page('/held');
  const [, next = ''] = /href="([^"]+)" rel="next"/.exec(first) ?? [];
  const rest = await page(next);
  const overview = await page('/');

  const shown = [...first.matchAll(/class="reference">(held-\d+)</g)].map(([, reference]) => reference);
  expect(shown).toEqual(orders.slice(0, 50).map(({ reference }) => reference));
  expect(first).toContain('being closed');
  expect(first).toContain('no answer');
  expect(first).toContain('money is on its way');
  expect(first).toContain('reason &lt;0&gt;');
  expect(rest).toContain('held-50');
  expect(rest).not.toContain('rel="next"');
  expect(overview).toMatch(/Held without an answer<\/dt>\s*<dd><a href="\/held">5\d<\/a>/);
  expect(overview).toContain('1 more whose money is on its way');
  expect(overview).not.toContain('for longer than the policy allows');
  await database.query(`update payment_attempts set alarm_at = now() where verdict = 'processing'`);
  expect(await page('/')).toMatch(
    /<div class="bad">\s*<dt>Held without an answer.+\s.+\s.+ 1 for longer than the policy allows/,
  );
  await database.query(`delete from payment_attempts where verdict is not null`);
  await database.query('update orders set open_attempt_count = 0');
});

describe('the work list', () => {
  test('is counted on the overview, and red when something waits for more than a day', async () => {
    await database.query(`update payments set resolution = 'dismiss', resolved_at = now(), resolved_by = 'test', note = 'x'
      where listed_at is not null and resolved_at is null`);
    expect(await page('/')).toMatch(/<dd><a href="\/work">0<\/a><\/dd>\s*<dd class="note">no money waits/);
    const { payment: listed } = await aListed();
    expect(await page('/')).toMatch(
      /<div>\s*<dt>Work list<\/dt>\s*<dd><a href="\/work">1<\/a><\/dd>\s*<dd class="note">.* the oldest for \d/,
    );
    await database.query(`update payments set listed_at = listed_at - interval '25 hours' where id = $1`, [
      listed.id,
    ]);
    expect(await page('/')).toMatch(/<div class="bad">\s*<dt>Work list<\/dt>/);
    await decide(listed.id, { resolution: 'dismiss', note: 'seen to' });
  });

  test('says why a payment is on it, and why its provider would not return it', async () => {
    const { payment: listed } = await aListed();
    const order = await place(ops);
    await ops.orders.cancel({ orderId: order.id, reason: 'customer', actor: 'test' });
    await report(order, { verified: true });
    const [refund] = await ops.orders.claimRefunds(100);
    const verdict = { state: 'refused', reason: 'the card is gone', actor: 'test' } as const;
    await ops.orders.recordRefund({ refundId: refund?.id ?? '' }, verdict);

    const body = await page('/work');
    expect(body).toContain('Only the shop told of it');
    expect(body).toContain('Its provider refused to return it.');
    expect(body).toContain('1 try: the card is gone');
    expect(body).toContain(`action="${workList}/${listed.id}"`);
    expect(await page(`/orders/${order.id}`)).toContain('Its provider refused to return it.');
  });

  test('a payment is accepted: its order is paid, no job is left, and it is written who did it', async () => {
    const { order, payment: listed } = await aListed();
    const { status, body } = await decide(listed.id, { resolution: 'accept', note: ' the rest was a gift ' });

    expect(status).toBe(303);
    expect(body).toContain('its order is paid');
    expect(body).toContain(`href="/orders/${order.id}"`);
    expect(body).not.toContain(listed.id);
    expect(await ops.orders.find(order.id)).toMatchObject({ status: 'paid' });
    const address = { orderId: order.id, partition: order.partition };
    expect(await ops.deadlines.inspect(address)).toBeNull();
    expect(await payment(order)).toMatchObject({ resolvedBy: 'ops:ops', note: 'the rest was a gift' });
    expect((await ops.orders.timeline(order.id)).at(-1)).toMatchObject({
      type: 'payment.resolved',
      actor: 'ops:ops',
    });
    expect(logged.join('\n')).toContain('payment was decided about');
    expect(await page(`/orders/${order.id}`)).toContain('accepted by ops:ops');
  });

  test('a payment is refunded', async () => {
    const { order, payment: listed } = await aListed();
    const { body } = await decide(listed.id, { resolution: 'refund' });

    expect(body).toContain('goes back the way it came');
    expect(await payment(order)).toMatchObject({
      resolution: 'refund',
      note: null,
      refund: { state: 'due', actor: 'ops:ops' },
    });
  });

  test('a payment is dismissed with a note, and never without', async () => {
    const { order, payment: listed } = await aListed();
    const without = await decide(listed.id, { resolution: 'dismiss', note: '  ' });
    expect(without.status).toBe(400);
    expect(without.body).toContain('say in a note what was done');
    for (const [resolution, note] of [
      ['keep', 'x'],
      ['dismiss', 'x'.repeat(1001)],
      ['dismiss', 'a\0b'],
    ] as const)
      expect((await decide(listed.id, { resolution, note })).status).toBe(400);
    expect(await payment(order)).toMatchObject({ resolution: null });

    const dismissed = await decide(listed.id, { resolution: 'dismiss', note: 'by <cheque>' });
    expect(dismissed.body).toContain('The payment is dismissed.');
    expect(await payment(order)).toMatchObject({ resolution: 'dismiss', note: 'by <cheque>' });
    expect(await page(`/orders/${order.id}`)).toContain('“by &lt;cheque&gt;”');
  });

  test('what changed nothing says why', async () => {
    const { payment: decided } = await aListed();
    await ops.orders.decideWork({
      paymentId: decided.id,
      resolution: 'dismiss',
      note: 'seen to',
      actor: 'anna',
    });
    const again = await decide(decided.id, { resolution: 'refund' });
    expect(again.status).toBe(409);
    expect(again.body).toMatch(
      /Nothing was changed: anna decided dismiss at [\d-]+ [\d:.]+, noting “seen to”/,
    );

    await ops.orders.setStock('cup', 1);
    const items = [{ sku: 'cup', quantity: 1, unitAmount: 700 }];
    const late = await place(ops, { items });
    await expire(late);
    const listed = await report(late);
    await place(ops, { items });
    const soldOut = await decide(listed.id, { resolution: 'accept' });
    expect(soldOut.status).toBe(409);
    expect(soldOut.body).toContain('the stock of the order is sold');

    const cancelled = await aListed();
    await ops.orders.cancel({ orderId: cancelled.order.id, reason: 'customer', actor: 'test' });
    const accepted = await decide(cancelled.payment.id, { resolution: 'accept' });
    expect(accepted.body).toContain('somebody cancelled the order');

    const unknown = await decide('01890000-0000-7000-8000-000000000000', { resolution: 'accept' });
    expect(unknown.status).toBe(404);
    expect(unknown.body).toContain('There is no such payment.');
    expect((await decide('odd', { resolution: 'accept' })).status).toBe(404);
  });

  test('money without an order is shown, and cannot be accepted', async () => {
    const orderId = '01890000-0000-7000-8000-00000000000a';
    await ops.orders.pay({
      orderId,
      provider: 'bank',
      providerPaymentId: 'for nobody',
      amount: 100,
      currency: 'EUR',
      verified: true,
      actor: 'test',
    });
    const listed = (await ops.orders.workList({ limit: 100 })).find(({ outcome }) => outcome === 'orderless');
    const body = await page('/work');
    expect(body).toContain('Its provider took it for an order that does not exist.');
    expect(body).not.toContain('/orders/null');
    const accepted = await decide(listed?.id ?? '', { resolution: 'accept' });
    expect(accepted).toMatchObject({ status: 409, body: expect.stringContaining('there is no such order') });
    expect((await decide(listed?.id ?? '', { resolution: 'refund' })).body).toContain('goes back');
  });

  test('nobody decides without a session, nor a page of another site in somebody’s name', async () => {
    const { order, payment: listed } = await aListed();
    const wish = form({ resolution: 'refund' });
    expect((await ops.fetch(`${workList}/${listed.id}`, wish)).status).toBe(401);
    for (const headers of [
      { origin: 'https://evil.example' },
      { 'sec-fetch-site': 'cross-site' },
      { 'sec-fetch-site': 'same-site' },
    ])
      expect((await get(`${workList}/${listed.id}`, { ...wish, headers })).status).toBe(403);
    expect((await get(`${workList}/${listed.id}?resolution=refund`)).status).toBe(404);
    expect(await payment(order)).toMatchObject({ resolution: null });

    const headers = { origin: ops.url, 'sec-fetch-site': 'same-origin' };
    expect((await get(`${workList}/${listed.id}`, { ...wish, headers })).status).toBe(303);
  });

  test('a decision on a later page leads back to it', async () => {
    const listed = await aListed();
    const after = `${(listed.payment.listedAt?.getTime() ?? 0) - 1}.00000000-0000-0000-0000-000000000000`;
    const shown = await page(`/work?after=${after}`);
    expect(shown).toContain(`name="after" value="${after}"`);
    const answer = await get(`${workList}/${listed.payment.id}`, form({ resolution: 'accept', after }));
    expect(answer.headers.get('location')).toBe(`/work?done=paid&order=${listed.order.id}&after=${after}`);
    expect(await page('/work?done=constructor&order=odd&after=odd')).not.toContain('role="status"');
  });
});

test('while Redis is away a decision is made all the same', async () => {
  const { order, payment: listed } = await aListed();
  const alone = await startOps({ databaseUrl: own.url, redisUrl: 'redis://127.0.0.1:1' });
  const ask = await alone.signIn();
  const answer = await ask(`${workList}/${listed.id}`, form({ resolution: 'accept' }));
  await alone.stop();
  expect(answer.status).toBe(303);
  expect(await ops.orders.find(order.id)).toMatchObject({ status: 'paid' });
});
