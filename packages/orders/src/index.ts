import { fileURLToPath } from 'node:url';
import { queryable, type Database } from '@lapse/runtime';
import {
  attemptToAsk,
  claimDueAsks,
  putOffClosing,
  readOpenAttempts,
  requestReconcile,
  type AskDue,
  type AttemptToAsk,
  type Reconciliation,
} from './asks.ts';
import {
  beginAttempt,
  findAttempt,
  readAttemptProviders,
  readAttempts,
  recordOpened,
  type AttemptAnswer,
  type AttemptRequest,
  type HandOff,
  type PaymentAttempt,
} from './attempts.ts';
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
import {
  activeFreezes,
  findFreeze,
  freeze,
  freezeOnce,
  freezesOf,
  frozenBy,
  listFreezes,
  type Freeze,
  type FreezeRequest,
} from './freeze.ts';
import {
  closingSince,
  countAlarms,
  countHeldAttempts,
  listHeld,
  type HeldAttempt,
  type HeldCursor,
  type VerdictCounts,
} from './held.ts';
import { purgeIdempotencyKeys, type KeyBlocks, type Purge } from './idempotency.ts';
import type { Order } from './order.ts';
import { pendingAmong, readPendingPage, type PendingCursor, type PendingPage } from './pending.ts';
import type { PayRequest } from './pay-decide.ts';
import { createPay, type PayAnswer } from './pay.ts';
import { listWork, readOrderPayments, type Payment, type WorkListCursor } from './payments.ts';
import { defaultPolicies, policyFor, type OrderKind, type Policies, type Policy } from './policies.ts';
import {
  findRebuild,
  rebuildStep,
  requestRebuild,
  type Rebuild,
  type RebuildPorts,
  type RebuildStep,
} from './rebuild.ts';
import type { Refund } from './refund-row.ts';
import {
  askAboutRefunds,
  claimRefunds,
  countRefunds,
  recordRefund,
  type RefundName,
  type RefundToTry,
  type RefundVerdict,
} from './refunds.ts';
import { remind, sweepReminders, type RemindAnswer } from './remind.ts';
import { removeSettled, type Removal, type RemovalRequest } from './retention.ts';
import { adjustStock, listStock, readStock, setStock, type Stock, type StockAnswer } from './stock.ts';
import { thaw, thawStep, type ThawStep } from './thaw.ts';
import { recordVerdict, type AttemptVerdict, type VerdictAnswer } from './verdict.ts';
import { decideWork, type WorkAnswer, type WorkDecision } from './work.ts';
import { measureWork, type WorkSize } from './work-size.ts';

export type { AskDue, AttemptToAsk } from './asks.ts';
export type { AttemptAnswer, AttemptRequest, HandOff, PaymentAttempt } from './attempts.ts';
export type { Backlog } from './backlog.ts';
export type { ActiveBrake, BrakeLimits, ResumeAnswer, ResumeRequest } from './brake.ts';
export type { CancelAnswer, CancelRequest } from './cancel.ts';
export type { CheckoutAnswer, CheckoutRequest } from './checkout.ts';
export { formatDuration, parseDuration } from './duration.ts';
export type { ExpireAnswer } from './expire.ts';
export type { ExtendAnswer, ExtendRequest } from './extend.ts';
export type { OrderEvent, OrderFilter } from './find.ts';
export type { Freeze, FreezeScope } from './freeze.ts';
export type { HeldAttempt, HeldCursor } from './held.ts';
export type { IdempotencyKey, KeyBlocks, Purge } from './idempotency.ts';
export { loadPolicies } from './load-policies.ts';
export type { Order, OrderStatus } from './order.ts';
export type { PayRequest } from './pay-decide.ts';
export type { PayAnswer } from './pay.ts';
export type { PendingCursor, PendingDeadline } from './pending.ts';
export type { Payment, WorkListCursor } from './payments.ts';
export { explainPolicy, type OrderKind, type Policies, type Policy } from './policies.ts';
export type { Refund } from './refund-row.ts';
export type { RefundToTry } from './refunds.ts';
export type { RemindAnswer } from './remind.ts';
export type { Rebuild } from './rebuild.ts';
export type { Removal, RemovalRequest } from './retention.ts';
export type { Stock, StockAnswer } from './stock.ts';
export type { ThawStep } from './thaw.ts';
export type { AttemptVerdict } from './verdict.ts';
export type { WorkAnswer, WorkDecision } from './work.ts';

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
  /** Writes the payment reminders of those of the orders for which one is due; an answer for each that there is. */
  remind(ids: readonly string[], actor: string): Promise<ReadonlyMap<string, RemindAnswer>>;
  /** Finds up to `limit` reminders that are due without the queue and writes them. */
  sweepReminders(limit: number, actor: string): Promise<ReadonlyMap<string, RemindAnswer>>;

  /** Begins a way to pay; the caller then opens it at the provider. */
  beginAttempt(request: AttemptRequest): Promise<AttemptAnswer>;
  /** Keeps what the provider answered to the opening. */
  recordOpened(opened: {
    attemptId: string;
    providerAttemptId: string;
    handOff: HandOff;
  }): Promise<PaymentAttempt | undefined>;
  /** Keeps what the provider said of an attempt; what it said of money goes to `pay`. */
  recordVerdict(said: AttemptVerdict): Promise<VerdictAnswer>;
  /** The attempts of an order, oldest first. */
  attempts(orderId: string): Promise<PaymentAttempt[]>;
  /** The attempts of these orders that may still bring money. */
  openAttempts(orderIds: readonly string[]): Promise<AttemptToAsk[]>;
  findAttempt(named: {
    provider: string;
    attemptId: string | null;
    providerAttemptId: string | null;
  }): Promise<PaymentAttempt | undefined>;
  /** Takes questions to providers that are due by themselves, but for none of some providers. */
  claimDueAsks(limit: number, but?: readonly string[]): Promise<AskDue[]>;
  /** Leaves orders that wait for a verdict alone for a while. */
  putOffClosing(orderIds: readonly string[], pauseMs: number): Promise<void>;
  /**
   * Has the workers ask about every open attempt of a provider, and every refund that it took; `sinceMs` not null: of the
   * last so many ms.
   */
  requestReconcile(request: {
    provider: string;
    sinceMs: number | null;
  }): Promise<Reconciliation & { readonly refundCount: number }>;
  /** The providers with which there ever was an attempt. */
  attemptProviders(): Promise<string[]>;
  /** One of a provider's newest attempts, to see whether it answers. */
  attemptToAsk(provider: string): Promise<AttemptToAsk | undefined>;
  /** How many attempts there are of which the provider says `unknown` or `processing`. */
  heldAttempts(): Promise<VerdictCounts>;
  /** Attempts that ops must see to: no answer for 5 minutes, or money on its way for longer than the policy allows. */
  attemptAlarms(): Promise<VerdictCounts>;
  /** Attempts of which the provider says `unknown` or `processing`, with their orders, those held longest first. */
  heldList(page: { after?: HeldCursor; limit: number }): Promise<HeldAttempt[]>;
  /** Since when the providers of an order are being asked before it is cancelled; undefined: they are not. */
  closingSince(orderId: string): Promise<Date | undefined>;
  /** Takes refunds that are to be sent, or asked about, now. */
  claimRefunds(limit: number): Promise<RefundToTry[]>;
  /** Keeps what the provider said of a refund; answers its state, undefined where it had ended or does not exist. */
  recordRefund(name: RefundName, verdict: RefundVerdict): Promise<Refund['state'] | undefined>;
  openRefunds(): Promise<{ readonly due: number; readonly sent: number; readonly oldestMs: number }>;
  /** Does what a person decided about a payment on the work list. */
  decideWork(decision: WorkDecision): Promise<WorkAnswer>;

  find(id: string): Promise<Order | undefined>;
  list(filter: OrderFilter): Promise<OrderPage>;
  timeline(id: string): Promise<OrderEvent[]>;
  payments(orderId: string): Promise<Payment[]>;
  workList(page: { after?: WorkListCursor; limit: number }): Promise<Payment[]>;
  /** How long the work list is, and since when. */
  workSize(): Promise<WorkSize>;

  setStock(sku: string, onHand: number | null): Promise<StockAnswer>;
  adjustStock(sku: string, by: number): Promise<StockAnswer>;
  readStock(sku: string): Promise<Stock | undefined>;
  listStock(page: { after: string; limit: number }): Promise<Stock[]>;

  freeze(request: FreezeRequest): Promise<Freeze>;
  /** Freezes unless a freeze of the same actor stands. */
  freezeOnce(request: FreezeRequest): Promise<Freeze | undefined>;
  /** The freezes of these actors that nobody has thawed. */
  frozenBy(actors: readonly string[]): Promise<Freeze[]>;
  thaw(id: string, actor: string): Promise<Freeze | undefined>;
  thawStep(limit: number, from?: Date): Promise<ThawStep>;
  activeFreeze(): Promise<Freeze | undefined>;
  /** The freezes that are not done, the oldest first. */
  activeFreezes(limit: number): Promise<Freeze[]>;
  /** The freezes that hold an order. */
  freezesOf(orderId: string): Promise<Freeze[]>;
  /** The newest freezes and brakes, and all that are not done, the newest first. */
  freezes(limit: number): Promise<Freeze[]>;
  findFreeze(id: string): Promise<Freeze | undefined>;
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
 * @param options.policies by channel and payment method. Default: 30 minutes to pay, late money goes back
 */
export function createOrders(options: {
  database: Database;
  partitionCount?: number;
  brake?: BrakeLimits;
  policies?: Policies;
}): Orders {
  const { database, partitionCount = 1, brake = defaultBrake, policies = defaultPolicies } = options;
  const db = queryable(database);
  const policyOf = (order: OrderKind): Policy => policyFor(policies, order);
  return {
    checkout: createCheckout({ database, partitionCount, timesOf: policyOf }),
    pay: createPay({ database, lateMoney: (order) => policyOf(order).lateMoney }),
    cancel: (request) => cancelOrder(database, request),
    extend: (request) => extendOrder(database, request, policyOf),
    ...createExpiry(database, brake),
    remind: (ids, actor) => remind(database, ids, actor),
    sweepReminders: (limit, actor) => sweepReminders(database, limit, actor),

    beginAttempt: (request) => beginAttempt(database, request),
    recordOpened: (opened) => recordOpened(database, opened),
    recordVerdict: (said) => recordVerdict(database, said, (order) => policyOf(order).processingMs),
    attempts: (orderId) => readAttempts(db, orderId),
    openAttempts: (orderIds) => readOpenAttempts(db, orderIds),
    findAttempt: (named) => findAttempt(db, named),
    claimDueAsks: (limit, but = []) => claimDueAsks(database, limit, but),
    putOffClosing: (orderIds, pauseMs) => putOffClosing(database, orderIds, pauseMs),
    async requestReconcile(request) {
      const refundCount = await askAboutRefunds(database, request);
      return { ...(await requestReconcile(database, request)), refundCount };
    },
    attemptProviders: () => readAttemptProviders(db),
    attemptToAsk: (provider) => attemptToAsk(db, provider),
    heldAttempts: () => countHeldAttempts(db),
    attemptAlarms: () => countAlarms(db),
    heldList: (page) => listHeld(db, page),
    closingSince: (orderId) => closingSince(db, orderId),
    claimRefunds: (limit) => claimRefunds(database, limit),
    recordRefund: (name, verdict) => recordRefund(database, name, verdict),
    openRefunds: () => countRefunds(db),
    decideWork: (decision) => decideWork(database, decision),

    find: async (id) => (await readOrders(db, [id])).get(id),
    list: (filter) => listOrders(db, filter),
    timeline: (id) => readTimeline(db, id),
    payments: (orderId) => readOrderPayments(db, orderId),
    workList: (page) => listWork(db, page),
    workSize: () => measureWork(db),

    setStock: (sku, onHand) => setStock(database, sku, onHand),
    adjustStock: (sku, by) => adjustStock(database, sku, by),
    readStock: (sku) => readStock(db, sku),
    listStock: (page) => listStock(db, page),

    freeze: (request) => freeze(database, request),
    freezeOnce: (request) => freezeOnce(database, request),
    frozenBy: (actors) => frozenBy(db, actors),
    thaw: (id, actor) => thaw(database, id, actor),
    thawStep: (limit, from) => thawStep(database, limit, from),
    activeFreeze: async () => (await activeFreezes(db, 1))[0],
    activeFreezes: (limit) => activeFreezes(db, limit),
    freezesOf: (orderId) => freezesOf(db, orderId),
    freezes: (limit) => listFreezes(db, limit),
    findFreeze: (id) => findFreeze(db, id),
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
