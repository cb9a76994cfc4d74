import type { PaymentAttempt } from '@lapse/client';
import { inParallel, waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { lapse } from './fleet.ts';
import { startShopWithSandbox, type ShopWithSandbox } from './shop-with-sandbox.ts';

/** No order of this file is near its deadline: what is noticed is noticed by a question. */
const windowMs = 3_600_000;

let shop: ShopWithSandbox;
beforeAll(async () => {
  shop = await startShopWithSandbox({ workerCount: 1, behaviour: { loseWebhookShare: 1 } });
});
afterAll(async () => {
  await shop.expectRightBooks();
  await shop.stop();
});

/** Has the question of an attempt fall due now, as it does by itself a minute before the deadline. */
async function letAskFallDue({ id }: PaymentAttempt): Promise<void> {
  const asked = await shop.fleet.database.query(
    'update payment_attempts set ask_at = clock_timestamp() where id = $1 and ask_at > clock_timestamp()',
    [id],
  );
  expect(asked.rowCount).toBe(1);
}

describe('the question shortly before the deadline', () => {
  test('notices a payment whose webhook was lost', async () => {
    const { order, attempt } = await shop.begin({ windowMs });
    expect(shop.sandbox.pay(attempt.id)).toMatchObject({ outcome: 'paid' });
    await letAskFallDue(attempt);
    await shop.until(order.id, 'paid');
    expect(await shop.story(order.id)).toEqual([
      'order.placed',
      'attempt.opened',
      'attempt.paid',
      'order.paid',
    ]);
  });

  test('leaves an attempt open that nobody has paid', async () => {
    const { order, attempt } = await shop.begin({ windowMs });
    await letAskFallDue(attempt);
    const asked = await waitFor(
      async () => {
        const [now] = await shop.fleet.client.attempts(order.id);
        return now?.verdict === null ? undefined : now;
      },
      { what: 'the answer', timeoutMs: 20_000 },
    );
    expect(asked).toMatchObject({ state: 'open', verdict: 'open', endedAt: null });
    expect(await shop.fleet.client.order(order.id)).toMatchObject({ status: 'pending_payment' });
    expect(await shop.story(order.id)).toEqual(['order.placed', 'attempt.opened']);
    expect(shop.sandbox.pay(attempt.id)).toMatchObject({ outcome: 'paid' });
    // It is asked once more when its time comes.
    await letAskFallDue(attempt);
    await shop.until(order.id, 'paid');
  });
});

describe('lapse reconcile', () => {
  test('has every open attempt asked about, so that who paid in an outage has bought long before the deadline', async () => {
    const begun = await inParallel(6, 3, () => shop.begin({ windowMs }));
    const [unpaid, ...paid] = begun;
    for (const { attempt } of paid) shop.sandbox.pay(attempt.id);
    // A page may be opened long before its customer pays: all are asked about, however old.
    await shop.fleet.database.query(
      `update payment_attempts set created_at = created_at - interval '1 day' where ended_at is null`,
    );
    const { code, output } = await lapse(shop.fleet, 'reconcile', '--provider', 'sandbox');
    expect({ code, output }).toMatchObject({ code: 0 });
    expect(output).toMatch(/^Waiting for the workers to ask sandbox about 6 attempts\./);
    expect(output).toContain('sandbox was asked about all of them:\n  5 have ended');
    expect(output).toContain('  1 are open still, nobody has paid\n  0 are processing');
    await Promise.all(paid.map(({ order }) => shop.until(order.id, 'paid')));
    const [attempt] = await shop.fleet.client.attempts(unpaid?.order.id ?? '');
    expect(attempt).toMatchObject({ state: 'open' });
    shop.sandbox.pay(unpaid?.attempt.id ?? '');
    expect(await lapse(shop.fleet, 'reconcile', '--provider', 'sandbox')).toMatchObject({ code: 0 });
    await shop.until(unpaid?.order.id ?? '', 'paid');
  });

  test('says so where nothing is open', async () => {
    const since = await lapse(shop.fleet, 'reconcile', '--provider', 'sandbox', '--since', '1s');
    expect(since).toEqual({
      code: 0,
      output: 'No attempt with sandbox that was opened within 1s is open.',
    });
    expect(await lapse(shop.fleet, 'reconcile', '--provider', 'sandbox')).toEqual({
      code: 0,
      output: 'No attempt with sandbox is open.',
    });
  });

  test('says how many attempts got no answer, how many refunds are asked about, and asks behind a freeze', async () => {
    const [silent, frozen, late] = await inParallel(3, 3, () => shop.begin({ windowMs }));
    if (silent === undefined || frozen === undefined || late === undefined) throw new Error('none was begun');
    shop.sandbox.setBehaviour({ failCount: 1000, faultyCalls: ['look'] }, silent.attempt.id);
    // The provider took the refund, and the notice of its end is lost.
    shop.sandbox.setBehaviour({ refunds: 'confirmed_later', refundMs: Infinity }, late.attempt.id);
    shop.sandbox.setBehaviour({ failCount: 1000, faultyCalls: ['close'] }, frozen.attempt.id);
    shop.sandbox.pay(late.attempt.id);
    await shop.fleet.client.cancel(late.order.id);
    await shop.untilTold(late.order.id, 'refund.sent');
    // Fenced, and then frozen: no sweep asks about it.
    await shop.fleet.database.query(
      `update orders set created_at = created_at - interval '1 day', deadline_at = now(), expire_at = now(), check_at = now()
       where id = $1`,
      [frozen.order.id],
    );
    await waitFor(async () => (await shop.fleet.client.attempts(frozen.order.id))[0]?.verdict === 'unknown', {
      what: 'the fence',
      timeoutMs: 20_000,
    });
    expect(
      await lapse(shop.fleet, 'freeze', '--provider', 'sandbox', '--reason', 'it is down'),
    ).toMatchObject({ code: 0 });
    shop.sandbox.setBehaviour({ failCount: 0 }, frozen.attempt.id);
    const { code, output } = await lapse(shop.fleet, 'reconcile', '--provider', 'sandbox');
    expect({ code, output }).toMatchObject({ code: 0 });
    expect(output).toMatch(/^The workers ask sandbox about 1 refund that it took, too\./);
    expect(output).toContain('  1 are open still');
    expect(output).toContain('  1 got no answer\nThe workers go on asking');
    shop.sandbox.setBehaviour({ failCount: 0 }, silent.attempt.id);
    for (const { refundId } of shop.sandbox.ledger().refunds)
      shop.sandbox.settleRefund(refundId, 'confirmed');
    expect(await lapse(shop.fleet, 'thaw')).toMatchObject({ code: 0 });
  });
});

describe.concurrent('lapse reconcile refuses in a line', () => {
  test.each([
    [
      'a time without a unit',
      ['--provider', 'sandbox', '--since', '2'],
      '--since 2: write a number and s, m, h or d',
    ],
    ['no time at all', ['--provider', 'sandbox', '--since', '0h'], '--since 0h: write a number'],
    ['a date', ['--provider', 'sandbox', '--since', 'yesterday'], '--since yesterday: write a number'],
    ['no provider', [], "required option '--provider <name>' not specified"],
    [
      'a provider that nobody knows',
      ['--provider', 'strpie'],
      '--provider strpie: there never was an attempt with it, but with sandbox.',
    ],
  ])('%s', async (_, args, line) => {
    const { code, output } = await lapse(shop.fleet, 'reconcile', ...args);
    expect(code).toBe(1);
    expect(output).toContain(line);
    expect(output).not.toMatch(/^ +at /m);
  });
});
