import { createTestDatabase, type TestDatabase } from '@lapse/devstack';
import { createOrders, type Orders } from '@lapse/orders';
import { createLog, openDatabase, type Database } from '@lapse/runtime';
import { afterAll, beforeAll, beforeEach, expect, inject, test } from 'vitest';

import { emptyBooks, type LedgerBreaches } from './books.ts';
import { checkLedger, Ledger, type Entry, type Told } from './ledger.ts';
import { planProbe, stockAtStart } from './plan.ts';

let own: TestDatabase;
let database: Database;
let orders: Orders;
let ledger: Ledger;
let entry: Entry;
let placed: Told;
let number = 0;

beforeAll(async () => {
  own = await createTestDatabase({ adminUrl: inject('databaseUrl'), template: inject('templateDatabase') });
  database = openDatabase({ url: own.url, app: 'test', log: createLog('test', 'warn'), max: 2 });
  orders = createOrders({ database });
  for (const [sku, onHand] of stockAtStart) await orders.setStock(sku, onHand);
});
afterAll(async () => {
  await database.end();
  await own.drop();
});

/** An order as the shop and the rows both know it. */
beforeEach(async () => {
  number += 1;
  ledger = new Ledger();
  entry = ledger.open(planProbe(`test ${number}`, 0));
  entry.sent.add('checkout');
  placed = await place();
  entry.told.push(placed);
});

async function place(): Promise<Told> {
  const { reference, items } = entry.planned;
  const request = { reference, items, channel: 'default', paymentMethod: 'card', currency: 'EUR' };
  const answer = await orders.checkout({ ...request, paymentWindowMs: 60_000, metadata: {}, actor: 'test' });
  if (answer.outcome !== 'placed') throw new Error(answer.outcome);
  const { createdAt, deadlineAt, paidAt, cancelledAt, ...order } = answer.order;
  expect([paidAt, cancelledAt]).toEqual([null, null]);
  const instants = { createdAt: createdAt.toISOString(), deadlineAt: deadlineAt?.toISOString() ?? null };
  return {
    call: 'checkout',
    order: { ...order, ...instants, remainingMs: 60_000, paidAt: null, cancelledAt: null },
  };
}

/** The shop hears something that is not, or not any more, true of the rows. */
const lies: readonly (readonly [
  lie: string,
  kind: keyof LedgerBreaches,
  tell: () => void | Promise<unknown>,
])[] = [
  ['an order that does not exist', 'lost', () => hear({ id: '01890000-0000-7000-8000-000000000000' })],
  ['a payment that was not taken', 'wrong', () => hear({ status: 'paid' })],
  ['a cancellation that did not happen', 'wrong', () => hear({ status: 'cancelled' })],
  ['more time than there is', 'wrong', () => hear({ deadlineAt: '2099-01-01T00:00:00.000Z' })],
  ['another amount', 'wrong', () => hear({ amount: 1 })],
  ['a capture that is not recorded', 'lost', () => hear({}, 'never')],
  ['another outcome of a capture', 'wrong', () => pay().then(() => hear({}, 'wrong amount', 'paid'))],
  ['one order, and there are two', 'duplicated', place],
  ['nothing of a cancellation nobody asked for', 'wrong', cancel],
  ['a minute to pay, and it was taken away', 'wrong', expireEarly],
];

test.each(lies)('the ledger finds it when the shop was told of %s', async (_, kind, tell) => {
  await expect(checkLedger(ledger, emptyBooks, database)).resolves.toEqual({
    lost: [],
    wrong: [],
    duplicated: [],
  });
  await tell();
  const found = await checkLedger(ledger, emptyBooks, database);
  expect(found[kind]).not.toEqual([]);
});

test('the ledger finds stock that was sold without an order', async () => {
  await orders.adjustStock('sku-1', -1);
  await expect(checkLedger(ledger, emptyBooks, database)).resolves.toMatchObject({
    wrong: ['stock of sku-1: 1000000 at the start, 0 sold, 999999 left'],
  });
  await orders.adjustStock('sku-1', 1);
});

function hear(order: Partial<Told['order']>, capture?: string, outcome = 'paid'): void {
  entry.told.push({
    call: capture === undefined ? 'checkout' : 'pay',
    order: { ...placed.order, ...order },
    ...(capture === undefined
      ? {}
      : { capture: { id: `${entry.planned.reference}/${capture}`, outcome, recordedAs: outcome } }),
  });
}

async function pay(): Promise<void> {
  entry.sent.add('pay');
  const { outcome } = await orders.pay({
    orderId: placed.order.id,
    provider: 'shop',
    providerPaymentId: `${entry.planned.reference}/wrong amount`,
    amount: 1,
    currency: 'EUR',
    verified: false,
    actor: 'test',
  });
  expect(outcome).toBe('amount_mismatch');
}

function cancel(): Promise<unknown> {
  return orders.cancel({ orderId: placed.order.id, reason: 'customer', actor: 'test' });
}

function expireEarly(): Promise<unknown> {
  return database.query(
    `update orders set status = 'cancelled', cancel_reason = 'payment_timeout', cancelled_at = clock_timestamp(),
       created_at = created_at - interval '1 hour', deadline_at = deadline_at - interval '1 hour',
       expire_at = expire_at - interval '1 hour'
     where id = $1`,
    [placed.order.id],
  );
}
