import type { Database } from '@lapse/runtime';
import type { Order as RealOrder } from '../order.ts';
import type { Payment as RealPayment } from '../payments.ts';
import type { Orders } from '../index.ts';
import { openTestOrders } from '../testing.ts';
import { unknownOrder } from './commands.ts';
import { showOrder, showStock, type Shop } from './shop.ts';

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
}

/** Says in the model's words what the database says. */
export class Names {
  readonly orders = new Ids();
  readonly freezes = new Ids();

  constructor() {
    this.orders.give(unknownOrder, '01890000-0000-7000-8000-000000000000');
  }

  dateOf = (ms: number): Date => new Date(firstInstant + ms);
  msOf = (at: Date): number => at.getTime() - firstInstant;
  msOrNull = (at: Date | null): number | null => (at === null ? null : this.msOf(at));

  order(order: RealOrder) {
    const { id, status, cancelReason, currency, amount, items, remainingMs } = order;
    const { deadlineAt, expireAt } = order;
    if (deadlineAt === null || remainingMs === null) throw new Error(`order ${id} has no deadline`);
    if (expireAt?.getTime() !== deadlineAt.getTime()) throw new Error(`order ${id} has a grace`);
    return {
      name: this.orders.nameOf(id),
      status,
      cancelReason,
      currency,
      amount,
      items,
      remainingMs,
      createdAt: this.msOf(order.createdAt),
      deadlineAt: this.msOf(deadlineAt),
      paidAt: this.msOrNull(order.paidAt),
      cancelledAt: this.msOrNull(order.cancelledAt),
    };
  }

  payment(payment: RealPayment) {
    const { providerPaymentId: capture, orderId, amount, currency, outcome, recordedAt, listedAt } = payment;
    if (this.msOrNull(listedAt) !== (outcome === 'paid' ? null : this.msOf(recordedAt)))
      throw new Error(`the payment ${capture} is ${outcome} and listed at ${String(listedAt)}`);
    return {
      capture,
      order: this.orders.nameOf(orderId ?? ''),
      amount,
      currency,
      outcome,
      recordedAt: this.msOf(recordedAt),
    };
  }

  event({ type, at, data }: EventRow): object {
    const { freezeId, providerPaymentId, outcome, reason, latenessMs, frozenMs, ...rest } = data;
    const instants = Object.entries(rest).flatMap(([field, value]) =>
      ['deadlineAt', 'expireAt', 'from', 'to'].includes(field)
        ? [[field, this.msOf(new Date(String(value)))] as const]
        : [],
    );
    return withoutUndefined({
      type,
      at: this.msOf(at),
      ...Object.fromEntries(instants),
      freeze: typeof freezeId === 'string' ? this.freezes.nameOf(freezeId) : undefined,
      capture: providerPaymentId,
      outcome,
      reason,
      latenessMs,
      frozenMs,
    });
  }
}

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
  readonly stories: object;
  readonly givenBackTo: object;
  readonly payments: object;
  readonly workList: readonly string[];
  readonly freezes: object;
}

/** What there is in the model. */
export function factsOf(shop: Shop): Facts {
  const names = Object.keys(shop.orders);
  const payments = Object.entries(shop.payments);
  return {
    stock: fromEntries(Object.keys(shop.stock), (sku) => showStock(shop, sku)),
    orders: fromEntries(names, (name) => showOrder(shop, name)),
    stories: fromEntries(names, (name) => shop.orders[name]?.story),
    givenBackTo: fromEntries(names, (name) => shop.orders[name]?.givenBackTo),
    payments: Object.fromEntries(payments.map(([capture, payment]) => [capture, { capture, ...payment }])),
    workList: payments
      .filter(([, { outcome }]) => outcome !== 'paid')
      .map(([capture]) => capture)
      .toSorted(),
    freezes: Object.fromEntries(shop.freezes.map((each) => [each.name, each])),
  };
}

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

/** Opens a stage in a database of its own. */
export async function openStage(): Promise<Stage> {
  const shop = await openTestOrders();
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
          delete from refunds; delete from payments; delete from payment_attempts; delete from orders; delete from events; delete from idempotency_keys;
          delete from freezes; delete from stock`);
        await stage.setClock(0);
      },
      close: () => shop.close(),
    };
    return stage;
  };
  return open();
}

interface TimerRow {
  readonly id: string;
  readonly given_back_to: Date;
  /** A pending order whose check_at is not its expire_at. */
  readonly astray: boolean;
}

async function readFacts({ database, orders, names }: Stage): Promise<Facts> {
  const [{ orders: list }, stock, work, freezes, payments, events, timers] = await Promise.all([
    orders.list({ limit: 1000 }),
    orders.listStock({ after: '', limit: 1000 }),
    orders.workList({ limit: 1000 }),
    orders.freezes(1000),
    database.query<RealPayment>(`
      select order_id as "orderId", provider_payment_id as "providerPaymentId", amount, currency, outcome,
        recorded_at as "recordedAt", listed_at as "listedAt"
      from payments`),
    database.query<EventRow>('select order_id, type, at, data from events order by seq'),
    database.query<TimerRow>(`
      select id, coalesce(thawed_through, created_at) as given_back_to,
        status = 'pending_payment' and check_at <> expire_at as astray
      from orders`),
  ]);
  const astray = timers.rows.filter((row) => row.astray);
  if (astray.length > 0)
    throw new Error(`order ${names.orders.nameOf(astray[0]?.id ?? '')} is not looked at in time`);

  const stories: Record<string, object[]> = {};
  for (const row of events.rows) (stories[names.orders.nameOf(row.order_id)] ??= []).push(names.event(row));
  return {
    stock: Object.fromEntries(stock.map((level) => [level.sku, level])),
    orders: Object.fromEntries(list.map((order) => [names.orders.nameOf(order.id), names.order(order)])),
    stories,
    givenBackTo: Object.fromEntries(
      timers.rows.map((row) => [names.orders.nameOf(row.id), names.msOf(row.given_back_to)]),
    ),
    payments: Object.fromEntries(
      payments.rows.map((payment) => [payment.providerPaymentId, names.payment(payment)]),
    ),
    workList: work.map(({ providerPaymentId }) => providerPaymentId).toSorted(),
    freezes: Object.fromEntries(
      freezes.map(({ id, frozenAt, thawingAt, doneAt }) => {
        const name = names.freezes.nameOf(id);
        return [
          name,
          {
            name,
            frozenAt: names.msOf(frozenAt),
            thawingAt: names.msOrNull(thawingAt),
            doneAt: names.msOrNull(doneAt),
          },
        ];
      }),
    ),
  };
}
