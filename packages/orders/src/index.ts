import { fileURLToPath } from 'node:url';
import { queryable, type Database } from '@lapse/runtime';
import { pendingPartitions, readBacklog, type Backlog } from './backlog.ts';
import {
  activeBrake,
  defaultBrake,
  resume,
  type ActiveBrake,
  type BrakeLimits,
  type ResumeAnswer,
  type ResumeRequest,
} from './brake.ts';
import { cancelOrder, type CancelAnswer, type CancelRequest } from './cancel.ts';
import { clockOffsetMs } from './clock.ts';
import { createCheckout, type CheckoutAnswer, type CheckoutRequest } from './checkout.ts';
import { createExpiry, type ExpireAnswer } from './expire.ts';
import { extendOrder, type ExtendAnswer, type ExtendRequest } from './extend.ts';
import {
  listOrders,
  readOrders,
  readTimeline,
  type OrderEvent,
  type OrderFilter,
  type OrderPage,
} from './find.ts';
import { activeFreeze, freeze, listFreezes, thaw, thawStep, type Freeze, type ThawStep } from './freeze.ts';
import { purgeIdempotencyKeys, type KeyBlocks, type Purge } from './idempotency.ts';
import type { Order } from './order.ts';
import { pendingAmong, readPendingPage, type PendingCursor, type PendingPage } from './pending.ts';
import { createPay, type PayAnswer, type PayRequest } from './pay.ts';
import { listWork, readOrderPayments, type Payment, type WorkListCursor } from './payments.ts';
import {
  findRebuild,
  rebuildStep,
  requestRebuild,
  type Rebuild,
  type RebuildPorts,
  type RebuildStep,
} from './rebuild.ts';
import { removeSettled, type Removal, type RemovalRequest } from './retention.ts';
import { adjustStock, listStock, readStock, setStock, type Stock, type StockAnswer } from './stock.ts';

export type { Backlog } from './backlog.ts';
export type { ActiveBrake, BrakeLimits, ResumeAnswer, ResumeRequest } from './brake.ts';
export type { CancelAnswer, CancelRequest } from './cancel.ts';
export type { CheckoutAnswer, CheckoutRequest } from './checkout.ts';
export { formatDuration, parseDuration } from './duration.ts';
export type { ExpireAnswer } from './expire.ts';
export type { ExtendAnswer, ExtendRequest } from './extend.ts';
export type { OrderEvent, OrderFilter } from './find.ts';
export type { Freeze, ThawStep } from './freeze.ts';
export type { IdempotencyKey, KeyBlocks, Purge } from './idempotency.ts';
export { loadPolicies } from './load-policies.ts';
export type { Order, OrderStatus } from './order.ts';
export type { PayAnswer, PayRequest } from './pay.ts';
export type { PendingCursor, PendingDeadline } from './pending.ts';
export type { Payment, WorkListCursor } from './payments.ts';
export { explainPolicy, type OrderKind, type Policies, type Policy } from './policies.ts';
export type { Rebuild } from './rebuild.ts';
export type { Removal, RemovalRequest } from './retention.ts';
export type { Stock, StockAnswer } from './stock.ts';

/** The folder of the schema's migrations, for `migrate`. */
export const migrationsDir = fileURLToPath(new URL('../migrations', import.meta.url));

/** The truth about orders, stock and money. Every call is a transaction; DatabaseUnavailable when none was possible. */
export interface Orders {
  checkout(request: CheckoutRequest): Promise<CheckoutAnswer>;
  pay(request: PayRequest): Promise<PayAnswer>;
  cancel(request: CancelRequest): Promise<CancelAnswer>;
  extend(request: ExtendRequest): Promise<ExtendAnswer>;
  /** Cancels those of the orders that are pending and due; an answer for each id. */
  expire(ids: readonly string[], actor: string): Promise<ReadonlyMap<string, ExpireAnswer>>;
  /** Finds up to `limit` overdue orders without the queue and expires them. */
  sweep(limit: number, actor: string): Promise<ReadonlyMap<string, ExpireAnswer>>;

  find(id: string): Promise<Order | undefined>;
  list(filter: OrderFilter): Promise<OrderPage>;
  timeline(id: string): Promise<OrderEvent[]>;
  payments(orderId: string): Promise<Payment[]>;
  workList(page: { after?: WorkListCursor; limit: number }): Promise<Payment[]>;

  setStock(sku: string, onHand: number | null): Promise<StockAnswer>;
  adjustStock(sku: string, by: number): Promise<StockAnswer>;
  readStock(sku: string): Promise<Stock | undefined>;
  listStock(page: { after: string; limit: number }): Promise<Stock[]>;

  freeze(request: { reason: string; actor: string }): Promise<Freeze>;
  thaw(id: string): Promise<Freeze | undefined>;
  thawStep(limit: number, from?: Date): Promise<ThawStep>;
  activeFreeze(): Promise<Freeze | undefined>;
  freezes(limit: number): Promise<Freeze[]>;
  /** The brake that holds orders, if any. */
  activeBrake(): Promise<ActiveBrake | undefined>;
  /** Releases the brake. */
  resume(request: ResumeRequest): Promise<ResumeAnswer>;

  /** Pending orders page by page, those that are due first. `partitions` null: all. */
  pendingPage(page: {
    after: PendingCursor | null;
    limit: number;
    partitions: readonly number[] | null;
  }): Promise<PendingPage>;
  /** Which of these orders are pending. */
  pendingAmong(ids: readonly string[]): Promise<ReadonlySet<string>>;
  /** Asks for a rebuild; undefined where one is under way. */
  requestRebuild(request: {
    reason: string;
    actor: string;
    partitions: readonly number[] | null;
  }): Promise<Rebuild | undefined>;
  rebuildStep(limit: number, ports: RebuildPorts): Promise<RebuildStep>;
  findRebuild(id: string): Promise<Rebuild | undefined>;

  /** How far this process's clock is ahead of the database's, ms; undefined when the database is slow to say. */
  clockOffsetMs(): Promise<number | undefined>;
  pendingPartitions(): Promise<number[]>;
  backlog(): Promise<Backlog>;
  /** Removes old keys from some blocks of their table. */
  purgeIdempotencyKeys(blocks: KeyBlocks): Promise<Purge>;
  /** Removes orders that were settled long ago, with their payments and events. */
  removeSettled(request: RemovalRequest): Promise<Removal>;
}

/**
 * Opens the orders of a database whose schema is migrated.
 *
 * @param options.partitionCount number of queues that new deadlines are spread over. Default 1
 * @param options.brake when expiry holds by itself: default above 1,000 orders and 5 % of the pending ones
 */
export function createOrders(options: {
  database: Database;
  partitionCount?: number;
  brake?: BrakeLimits;
}): Orders {
  const { database, partitionCount = 1, brake = defaultBrake } = options;
  const db = queryable(database);
  return {
    checkout: createCheckout({ database, partitionCount }),
    pay: createPay({ database }),
    cancel: (request) => cancelOrder(database, request),
    extend: (request) => extendOrder(database, request),
    ...createExpiry(database, brake),

    find: async (id) => (await readOrders(db, [id])).get(id),
    list: (filter) => listOrders(db, filter),
    timeline: (id) => readTimeline(db, id),
    payments: (orderId) => readOrderPayments(db, orderId),
    workList: (page) => listWork(db, page),

    setStock: (sku, onHand) => setStock(database, sku, onHand),
    adjustStock: (sku, by) => adjustStock(database, sku, by),
    readStock: (sku) => readStock(db, sku),
    listStock: (page) => listStock(db, page),

    freeze: (request) => freeze(database, request),
    thaw: (id) => thaw(database, id),
    thawStep: (limit, from) => thawStep(database, limit, from),
    activeFreeze: () => activeFreeze(database),
    freezes: (limit) => listFreezes(db, limit),
    activeBrake: () => activeBrake(db),
    resume: (request) => resume(database, request),

    pendingPage: (page) => readPendingPage(db, page),
    pendingAmong: (ids) => pendingAmong(db, ids),
    requestRebuild: (request) => requestRebuild(database, request),
    rebuildStep: (limit, ports) => rebuildStep(database, limit, ports),
    findRebuild: (id) => findRebuild(db, id),

    clockOffsetMs: () => clockOffsetMs(db),
    pendingPartitions: () => pendingPartitions(db),
    backlog: () => readBacklog(db),
    purgeIdempotencyKeys: (blocks) => purgeIdempotencyKeys(db, blocks),
    removeSettled: (request) => removeSettled(database, request),
  };
}
