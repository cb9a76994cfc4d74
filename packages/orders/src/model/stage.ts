import { queryable, type Database } from '@lapse/runtime';
import { attemptColumns, type PaymentAttempt } from '../attempts.ts';
import type { Order as RealOrder } from '../order.ts';
import { readPayments, type Payment as RealPayment } from '../payments.ts';
import { defaultPolicies, type Policies } from '../policies.ts';
import type { Orders } from '../index.ts';
import { openTestOrders } from '../testing.ts';
import { unknownOrder } from './commands.ts';
import {
  finite,
  isListed,
  openAttempts,
  policies as policyByMethod,
  showOrder,
  showPayment,
  showStock,
  type Shop,
} from './shop.ts';

/** The model's clock 0, in the database. */
const firstInstant = Date.UTC(2030, 0, 1);

/** Names in the model and ids in the database, of one kind of things. */
class Ids {
  readonly #idByName = new Map<string, string>();
  readonly #nameById = new Map<string, string>();

  give(name: string, id: string): void {
    this.#idByName.set(name, id);
    this.#nameById.set(id, name);
  }

  idOf(name: string): string {
    const id = this.#idByName.get(name);
    if (id === undefined) throw new Error(`nothing was named ${name}`);
    return id;
  }

  nameOf(id: string): string {
    return this.#nameById.get(id) ?? `nameless ${id}`;
  }

  knows(id: string): boolean {
    return this.#nameById.has(id);
  }
}

/** Says in the model's words what the database says. */
export class Names {
  readonly orders = new Ids();
  readonly attempts = new Ids();
  readonly payments = new Ids();
  readonly freezes = new Ids();

  constructor() {
    this.orders.give(unknownOrder, '01890000-0000-7000-8000-000000000000');
  }

  dateOf = (ms: number): Date => new Date(firstInstant + ms);
  msOf = (at: Date): number => at.getTime() - firstInstant;
  msOrNull = (at: Date | null): number | null => (at === null ? null : this.msOf(at));

  order(order: RealOrder) {
    const { id, status, cancelReason, channel, paymentMethod, currency, amount, items, remainingMs } = order;
    return {
      name: this.orders.nameOf(id),
      status,
      cancelReason,
      channel,
      paymentMethod,
      currency,
      amount,
      items,
      remainingMs,
      createdAt: this.msOf(order.createdAt),
      deadlineAt: this.msOrNull(order.deadlineAt),
      expireAt: this.msOrNull(order.expireAt),
      paidAt: this.msOrNull(order.paidAt),
      cancelledAt: this.msOrNull(order.cancelledAt),
    };
  }

  payment({ providerPaymentId: capture, orderId, recordedAt, listedAt, refund, ...rest }: RealPayment) {
    const { amount, currency, outcome, verified, listedFor, resolution } = rest;
    return {
      capture,
      order: orderId === null ? null : this.orders.nameOf(orderId),
      amount,
      currency,
      outcome,
      verified,
      recordedAt: this.msOf(recordedAt),
      listedAt: this.msOrNull(listedAt),
      listedFor,
      resolution,
      refund: refund === null ? null : { state: refund.state, actor: refund.actor },
    };
  }

  event({ type, at, data }: EventRow): object {
    const { freezeId, attemptId, paymentId, outcome, listedFor, resolution, latenessMs, frozenMs, beforeMs } =
      data;
    const instants = ['deadlineAt', 'expireAt', 'from', 'to'].flatMap((field): [string, number | null][] => {
      const value = data[field];
      if (value === null) return [[field, null]];
      return typeof value === 'string' ? [[field, this.msOf(new Date(value))]] : [];
    });
    return withoutUndefined({
      type,
      at: this.msOf(at),
      ...Object.fromEntries(instants),
      freeze: nameOf(this.freezes, freezeId),
      attempt: nameOf(this.attempts, attemptId),
      capture: nameOf(this.payments, paymentId),
      outcome,
      listedFor,
      resolution,
      reason: type === 'order.cancelled' ? data['reason'] : undefined,
      latenessMs,
      frozenMs,
      beforeMs,
    });
  }
}

const nameOf = (ids: Ids, id: unknown): string | undefined =>
  typeof id === 'string' ? ids.nameOf(id) : undefined;

const withoutUndefined = (fields: Readonly<Record<string, unknown>>): object =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));

interface EventRow {
  readonly order_id: string;
  readonly type: string;
  readonly at: Date;
  readonly data: Readonly<Record<string, unknown>>;
}

/** All that the model and the database must agree about. */
export interface Facts {
  readonly stock: object;
  readonly orders: object;
  readonly stories: Readonly<Record<string, readonly object[]>>;
  /** What nobody is shown of the orders. */
  readonly insides: object;
  readonly attempts: object;
  readonly payments: object;
  readonly workList: readonly string[];
  readonly freezes: object;
}

/** What there is in the model. */
export function factsOf(shop: Shop): Facts {
  const payments = Object.entries(shop.payments);
  return {
    stock: fromEntries(Object.keys(shop.stock), (sku) => showStock(shop, sku)),
    orders: fromEntries(Object.keys(shop.orders), (name) => showOrder(shop, name)),
    stories: mapValues(shop.orders, ({ story }) => story),
    insides: mapValues(shop.orders, (order, name) => {
      const { givenBackTo, closingAt, remindAt, extensionCount, extendedMs } = order;
      const openAttemptCount = openAttempts(shop, name).length;
      return { givenBackTo, closingAt, remindAt, extensionCount, extendedMs, openAttemptCount };
    }),
    attempts: shop.attempts,
    payments: fromEntries(Object.keys(shop.payments), (capture) => showPayment(shop, capture)),
    workList: payments
      .filter(([, payment]) => isListed(payment))
      .map(([capture]) => capture)
      .toSorted(),
    freezes: Object.fromEntries(shop.freezes.map((each) => [each.name, each])),
  };
}

const mapValues = <From, To>(from: Readonly<Record<string, From>>, to: (value: From, key: string) => To) =>
  Object.fromEntries(Object.entries(from).map(([key, value]) => [key, to(value, key)]));

const fromEntries = (keys: readonly string[], value: (key: string) => unknown): object =>
  Object.fromEntries(keys.map((key) => [key, value(key)]));

/**
 * A database whose clock stands still until it is told the time, so that every instant is the model's, to the
 * millisecond, and a deadline can be met exactly. Nothing in the code under test is changed for it: in its sessions,
 * the search path puts a `clock_timestamp()` of our own before that of PostgreSQL.
 */
export interface Stage {
  readonly database: Database;
  readonly orders: Orders;
  readonly names: Names;
  setClock(clock: number): Promise<void>;
  /** The same stage over connections of its own, as another process has them. */
  another(): Stage;
  /** What there is in the database, in the model's words. */
  facts(): Promise<Facts>;
  /** An empty shop, at clock 0. */
  clear(): Promise<void>;
  close(): Promise<void>;
}

/** The model's policies, as a file of them would be read. */
const policies: Policies = {
  ...defaultPolicies,
  rules: Object.entries(policyByMethod).map(([method, policy]) => ({
    channels: null,
    paymentMethods: new Set([method]),
    policy: {
      ...defaultPolicies.defaults,
      name: method,
      windowMs: finite(policy.windowMs),
      graceMs: policy.graceMs,
      reminders: policy.remindersMs,
      extension: { maxCount: finite(policy.mostExtensions), maxTotalMs: finite(policy.mostExtendedMs) },
      lateMoney: policy.lateMoney,
    },
  })),
};

/** Opens a stage in a database of its own. */
export async function openStage(): Promise<Stage> {
  const shop = await openTestOrders({ policies });
  await shop.database.query(`
    create schema stopped;
    create table stopped.time as select to_timestamp(${firstInstant / 1000}) as at;
    create function stopped.clock_timestamp() returns timestamptz language sql volatile
      as 'select at from stopped.time'`);
  const url = new URL(shop.url);
  url.searchParams.set('options', '-c search_path=stopped,pg_catalog,public');
  const another = () => shop.another({ url: url.href });
  let names = new Names();

  const open = (): Stage => {
    const { database, orders } = another();
    const stage: Stage = {
      database,
      orders,
      get names() {
        return names;
      },
      another: open,
      async setClock(clock) {
        await database.query('update stopped.time set at = $1', [names.dateOf(clock)]);
      },
      facts: () => readFacts(stage),
      async clear() {
        names = new Names();
        await database.query(`
          delete from refunds; delete from payments; delete from payment_attempts; delete from orders;
          delete from events; delete from idempotency_keys; delete from freezes; delete from stock`);
        await stage.setClock(0);
      },
      close: () => shop.close(),
    };
    return stage;
  };
  return open();
}

interface InsideRow {
  readonly id: string;
  readonly given_back_to: Date;
  readonly closing_at: Date | null;
  readonly remind_at: Date | null;
  readonly extension_count: number;
  readonly extended_ms: number;
  readonly open_attempt_count: number;
  /** A pending order that neither its providers nor a freeze hold, and that no sweep looks at when its time is over. */
  readonly astray: boolean;
}

async function readFacts({ database, orders, names }: Stage): Promise<Facts> {
  const [{ orders: list }, stock, work, freezes, attempts, payments, events, insides] = await Promise.all([
    orders.list({ limit: 1000 }),
    orders.listStock({ after: '', limit: 1000 }),
    orders.workList({ limit: 1000 }),
    orders.freezes(1000),
    database.query<PaymentAttempt>(`select ${attemptColumns} from payment_attempts a`),
    database.query<{ id: string }>('select id from payments'),
    database.query<EventRow>('select order_id, type, at, data from events order by seq'),
    database.query<InsideRow>(`
      select id, coalesce(thawed_through, created_at) as given_back_to, closing_at, remind_at, extension_count, extended_ms,
        open_attempt_count,
        status = 'pending_payment' and closing_at is null and not exists (select from freezes where state <> 'done')
          and case when expire_at > clock_timestamp() then check_at <> expire_at else check_at > clock_timestamp() end
          as astray
      from orders`),
  ]);
  const astray = insides.rows.filter((row) => row.astray);
  if (astray.length > 0)
    throw new Error(`order ${names.orders.nameOf(astray[0]?.id ?? '')} is not looked at in time`);

  const paymentById = await readPayments(
    queryable(database),
    payments.rows.map(({ id }) => id),
  );
  for (const [id, { providerPaymentId }] of paymentById) names.payments.give(providerPaymentId, id);
  const stories: Record<string, object[]> = {};
  for (const row of events.rows) (stories[names.orders.nameOf(row.order_id)] ??= []).push(names.event(row));
  return {
    stock: Object.fromEntries(stock.map((level) => [level.sku, level])),
    orders: Object.fromEntries(list.map((order) => [names.orders.nameOf(order.id), names.order(order)])),
    stories,
    insides: Object.fromEntries(
      insides.rows.map((row) => [
        names.orders.nameOf(row.id),
        {
          givenBackTo: names.msOf(row.given_back_to),
          closingAt: names.msOrNull(row.closing_at),
          remindAt: names.msOrNull(row.remind_at),
          extensionCount: row.extension_count,
          extendedMs: row.extended_ms,
          openAttemptCount: row.open_attempt_count,
        },
      ]),
    ),
    attempts: Object.fromEntries(
      attempts.rows.map(({ id, orderId, provider, state, createdAt, endedAt, verdict, verdictSince }) => [
        names.attempts.nameOf(id),
        {
          order: names.orders.nameOf(orderId),
          provider,
          state,
          openedAt: names.msOf(createdAt),
          endedAt: names.msOrNull(endedAt),
          verdict,
          verdictSince: names.msOrNull(verdictSince),
        },
      ]),
    ),
    payments: Object.fromEntries(
      Array.from(paymentById.values(), (payment) => [payment.providerPaymentId, names.payment(payment)]),
    ),
    workList: work.map(({ providerPaymentId }) => providerPaymentId).toSorted(),
    freezes: Object.fromEntries(
      freezes.map(({ id, scope, frozenAt, thawingAt, doneAt }) => {
        const name = names.freezes.nameOf(id);
        return [
          name,
          {
            name,
            scope,
            frozenAt: names.msOf(frozenAt),
            thawingAt: names.msOrNull(thawingAt),
            doneAt: names.msOrNull(doneAt),
          },
        ];
      }),
    ),
  };
}
