import { createTestDatabase } from '@lapse/devstack';
import { createLog, openDatabase, type Database } from '@lapse/runtime';
import { expect, inject } from 'vitest';

import type { CheckoutRequest } from './checkout.ts';
import type { Freeze } from './freeze.ts';
import { createOrders, type BrakeLimits, type Orders } from './index.ts';
import type { Order } from './order.ts';
import type { PaymentAttempt } from './attempts.ts';
import type { PayRequest } from './pay-decide.ts';
import type { Policies, Policy } from './policies.ts';
import { defaultPolicies } from './policies.ts';

declare module 'vitest' {
  // As the tests' global set-up provides them.
  interface ProvidedContext {
    readonly databaseUrl: string;
    readonly templateDatabase: string;
    readonly invariants: readonly { readonly name: string; readonly breaches: string }[];
  }
}

/** Orders on connections of their own, as in a process of its own. */
export interface TestProcess {
  readonly orders: Orders;
  readonly database: Database;
}

/** Orders in a database of their own. */
export interface TestOrders extends TestProcess {
  readonly url: string;
  /** Opens the same database once more, at `url` where that leads to it another way. */
  another(options?: { url?: string; max?: number; brake?: BrakeLimits; policies?: Policies }): TestProcess;
  close(): Promise<void>;
}

/** Copies the migrated database and opens orders on it. */
export async function openTestOrders(
  options: { partitionCount?: number; brake?: BrakeLimits; policies?: Policies } = {},
): Promise<TestOrders> {
  const own = await createTestDatabase({
    adminUrl: inject('databaseUrl'),
    template: inject('templateDatabase'),
  });
  const pools: Database[] = [];
  const open: TestOrders['another'] = ({ url = own.url, max = 10, ...more } = {}) => {
    const database = openDatabase({ url, app: 'test', log: createLog('test', 'error'), max });
    pools.push(database);
    return { orders: createOrders({ database, ...options, ...more }), database };
  };
  return {
    ...open(),
    url: own.url,
    another: open,
    async close() {
      await Promise.all(pools.filter((pool) => !pool.ended).map((pool) => pool.end()));
      await own.drop();
    },
  };
}

/** A checkout of one piece of SKU `a` for 5.00 EUR, to be paid within a minute. */
export function aCheckout(changes: Partial<CheckoutRequest> = {}): CheckoutRequest {
  return {
    reference: null,
    channel: 'default',
    paymentMethod: 'card',
    currency: 'EUR',
    items: [{ sku: 'a', quantity: 1, unitAmount: 500 }],
    paymentWindowMs: 60_000,
    metadata: {},
    actor: 'test',
    ...changes,
  };
}

/** Places an order that is expected to be placed. */
export async function place(orders: Orders, changes: Partial<CheckoutRequest> = {}): Promise<Order> {
  const answer = await orders.checkout(aCheckout(changes));
  if (answer.outcome !== 'placed') throw new Error(`the order was not placed: ${answer.outcome}`);
  return answer.order;
}

/** The deadline of an order that has one. */
export function deadlineOf({ deadlineAt }: Pick<Order, 'deadlineAt'>): Date {
  if (deadlineAt === null) throw new Error('the order waits for ever');
  return deadlineAt;
}

/** When an order that has a deadline may be cancelled. */
export function expiryOf({ expireAt }: Pick<Order, 'expireAt'>): Date {
  if (expireAt === null) throw new Error('the order waits for ever');
  return expireAt;
}

/** Places several at once. */
export function placeMany(
  orders: Orders,
  count: number,
  changes: Partial<CheckoutRequest> = {},
): Promise<Order[]> {
  return Promise.all(Array.from({ length: count }, () => place(orders, changes)));
}

/** A payment of just what the order costs, as the shop reports it; each order has its own capture. */
export function aPayment(order: Order, changes: Partial<PayRequest> = {}): PayRequest {
  return {
    orderId: order.id,
    provider: 'bank',
    providerPaymentId: `capture of ${order.id}`,
    amount: order.amount,
    currency: order.currency,
    verified: false,
    actor: 'test',
    ...changes,
  };
}

/** Policies of which all orders have the same. */
export function onePolicy(changes: Partial<Policy>): Policies {
  return { rules: [], defaults: { ...defaultPolicies.defaults, ...changes } };
}

/** Begins an attempt that is expected to begin, as if its provider had answered. */
export async function openAttempt(
  orders: Orders,
  orderId: string,
  provider = 'wallet',
): Promise<PaymentAttempt> {
  const begun = await orders.beginAttempt({
    orderId,
    provider,
    handOffAs: 'url',
    returnUrl: null,
    actor: 'test',
  });
  if (begun.outcome !== 'opening') throw new Error(`the attempt did not begin: ${begun.outcome}`);
  const { id } = begun.attempt;
  const opened = await orders.recordOpened({
    attemptId: id,
    providerAttemptId: `page of ${id}`,
    handOff: { url: 'https://pay.example/page' },
  });
  if (opened?.state !== 'open') throw new Error('the attempt was not opened');
  return opened;
}

/** Moves pending orders into the past, so far that their time ended `overdueMs` ago. */
export async function makeDue(database: Database, due: readonly Order[], overdueMs = 1000): Promise<void> {
  await database.query(
    `with old as (
       select id, clock_timestamp() - $2 * interval '1 ms' - expire_at as shift
       from orders where id = any ($1::uuid[]) and status = 'pending_payment'
       order by id
       for no key update
     )
     update orders o set
       created_at = created_at + shift, deadline_at = deadline_at + shift,
       expire_at = expire_at + shift, check_at = expire_at + shift, remind_at = remind_at + shift
     from old where o.id = old.id`,
    [due.map(({ id }) => id), overdueMs],
  );
}

/** Moves everything there is into the past, but for events, attempts and payments. */
export async function letPass(database: Database, ms: number): Promise<void> {
  await database.query(
    `with by as (
       select $1 * interval '1 ms' as ms
     ), locked as (
       select id from orders order by id for no key update
     ), moved as (
       update orders set
         created_at = created_at - by.ms, deadline_at = deadline_at - by.ms, expire_at = expire_at - by.ms,
         check_at = check_at - by.ms, remind_at = remind_at - by.ms, thawed_through = thawed_through - by.ms,
         paid_at = paid_at - by.ms, cancelled_at = cancelled_at - by.ms,
         providers = (select jsonb_object_agg(key, value::timestamptz - by.ms) from jsonb_each_text(providers))
       from by, locked
       where orders.id = locked.id
     )
     update freezes set
       frozen_at = frozen_at - by.ms, thawing_at = thawing_at - by.ms, done_at = done_at - by.ms
     from by`,
    [ms],
  );
}

/** Begins a thaw that is expected to begin. */
export async function beginThaw(orders: Orders, id: string): Promise<Freeze> {
  const thawing = await orders.thaw(id, 'test');
  if (thawing === undefined) throw new Error('there is nothing to thaw');
  return thawing;
}

/** The types of an order's events, oldest first. */
export async function eventTypes(orders: Orders, orderId: string): Promise<string[]> {
  return (await orders.timeline(orderId)).map(({ type }) => type);
}

/** Places many orders of SKU `a` at once, without a checkout: their time ended `overdueMs` ago, or is yet to come. */
export async function placeOverdue(database: Database, count: number, overdueMs: number): Promise<string[]> {
  const { rows } = await database.query<{ id: string }>(
    `with placed as (
       insert into orders (
         id, partition, channel, payment_method, currency, amount, items, metadata,
         created_at, deadline_at, expire_at, check_at
       )
       select
         gen_random_uuid(), 0, 'default', 'card', 'EUR', 500, '[{"sku": "a", "quantity": 1, "unitAmount": 500}]', '{}',
         at - interval '1 day', at, at, at
       from generate_series(1, $1::int) as n
       -- A few ms apart, as orders are.
       cross join lateral (
         select clock_timestamp() - $2 * interval '1 ms' - n * interval '0.01 ms' as at
       ) as due
       returning id, created_at
     ), held as (
       update stock set held = held + $1::int where sku = 'a'
     )
     insert into events (order_id, type, actor, at, data)
     select id, 'order.placed', 'test', created_at, '{}' from placed
     returning order_id as id`,
    [count, overdueMs],
  );
  return rows.map(({ id }) => id);
}

/** How many statements wait in the server for a lock. */
export async function waitingCount(database: Database): Promise<number> {
  const { rows } = await database.query<{ count: number }>(
    `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  );
  return rows[0]?.count ?? 0;
}

/** Expects that no invariant is broken. They are stated once, in test/invariants.ts; the set-up hands them over. */
export async function expectConsistent(database: Database): Promise<void> {
  const broken: Record<string, unknown[]> = {};
  for (const { name, breaches } of inject('invariants')) {
    const { rows } = await database.query<Record<string, unknown>>(breaches);
    if (rows.length > 0) broken[name] = rows.slice(0, 10);
  }
  expect(broken).toEqual({});
}
