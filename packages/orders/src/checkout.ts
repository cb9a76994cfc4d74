import { transaction, type Batcher, type Database, type Statement, type Transaction } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
import { allocate, type Allocation, type StockLevel } from './allocate.ts';
import { readOrders } from './find.ts';
import { groupCommit } from './group-commit.ts';
import {
  areKeysClaimed,
  awaitTwin,
  claimAllKeys,
  claimKeys,
  identity,
  keep,
  keepKeys,
  withoutTwins,
  type Claim,
  type IdempotencyKey,
  type KeptKey,
} from './idempotency.ts';
import { isoInstant } from './instant.ts';
import type { Order, OrderItem } from './order.ts';
import type { Policy } from './policies.ts';

/** A checked checkout. */
export interface CheckoutRequest {
  readonly reference: string | null;
  readonly channel: string;
  readonly paymentMethod: string;
  readonly currency: string;
  /** 1 to 100 items, each SKU once. */
  readonly items: readonly OrderItem[];
  /** How long the customer has to pay, ms. Where it is left out the policy decides. */
  readonly paymentWindowMs?: number | undefined;
  readonly metadata: Readonly<Record<string, unknown>>;
  /** Who asks, for the event. */
  readonly actor: string;
  readonly idempotency?: IdempotencyKey | undefined;
}

/** What became of a checkout. `replayed` says that an earlier request with the same key placed the order. */
export type CheckoutAnswer =
  | { readonly outcome: 'placed'; readonly order: Order; readonly replayed: boolean }
  | { readonly outcome: 'unknown_sku'; readonly skus: readonly string[] }
  | { readonly outcome: 'out_of_stock'; readonly skus: readonly string[] }
  | { readonly outcome: 'idempotency_key_reused' }
  | { readonly outcome: 'idempotency_in_progress' }
  /** The key was answered with an order that was removed since. */
  | { readonly outcome: 'order_not_found'; readonly orderId: string };

/** A request and what was drawn for it before the first try, so that a retry knows its own order again. */
interface Draft {
  readonly request: CheckoutRequest;
  readonly id: string;
  readonly partition: number;
  readonly amount: number;
  /** Null: for ever. */
  readonly windowMs: number | null;
  readonly graceMs: number;
  /** How long before the deadline reminders are sent, ms. Undefined: never. */
  readonly reminders?: readonly number[] | undefined;
  /** That of them which is sent first. Undefined: the window is too short for any. */
  readonly remindMs?: number | undefined;
}

const lockStock: Statement = {
  name: 'checkout_lock_stock',
  text: `
    select sku, on_hand, held from stock
    where sku = any ($1::text[])
    order by sku
    for no key update`,
};

interface StockRow {
  readonly sku: string;
  readonly on_hand: number | null;
  readonly held: number;
}

/**
 * SQL that writes orders, holds, events and keys.
 *
 * @param clock CTEs up to `clock`, the time with its column `at`; where it has no row, nothing is written
 */
const placement = (clock: string): string => `
    with ${clock}, draft as materialized (
      select * from jsonb_to_recordset($1::jsonb) as draft (
        n int, id uuid, partition smallint, reference text, channel text, "paymentMethod" text, currency text,
        amount bigint, items jsonb, metadata jsonb, "windowMs" bigint, "graceMs" bigint,
        reminders bigint[], "remindMs" bigint, actor text
      )
    ), placed as (
      insert into orders (
        id, partition, reference, channel, payment_method, currency, amount, items, metadata,
        created_at, deadline_at, expire_at, check_at, reminders, remind_at
      )
      select
        id, partition, reference, channel, "paymentMethod", currency, amount, items, metadata,
        clock.at, deadline.at, deadline.expire_at, deadline.expire_at,
        reminders, deadline.at - "remindMs" * interval '1 ms'
      from draft
      cross join clock
      cross join lateral (
        select
          coalesce(clock.at + "windowMs" * interval '1 ms', 'infinity') as at,
          coalesce(clock.at + ("windowMs" + "graceMs") * interval '1 ms', 'infinity') as expire_at
      ) as deadline
    ), held as (
      -- The rows are locked already, in order.
      update stock s set held = s.held + h.quantity, updated_at = clock.at
      from jsonb_to_recordset($2::jsonb) as h (sku text, quantity bigint) cross join clock
      where s.sku = h.sku
    ), logged as (
      insert into events (order_id, type, actor, at, data)
      select id, 'order.placed', actor, clock.at, jsonb_build_object(
        'currency', currency, 'amount', amount, 'deadlineAt', ${isoInstant('clock.at + "windowMs" * interval \'1 ms\'')}
      )
      from draft cross join clock
      order by n
    ), ${keepKeys('$3')}
    select at from clock`;

/** For orders whose stock is locked and was found to be enough. */
const placeOrders: Statement = {
  name: 'checkout_place_orders',
  text: placement(`clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    )`),
};

/** For the most frequent batch: no key was used before, and there is enough of everything. Else it writes nothing. */
const placeAllOrNone: Statement = {
  name: 'checkout_place_all_or_none',
  text: placement(`wanted as materialized (
      select * from jsonb_to_recordset($2::jsonb) as wanted (sku text, quantity bigint)
    ), locked as materialized (
      select sku, on_hand, held from stock
      where sku = any ($4::text[])
      order by sku
      for no key update
    ), clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
      where ${areKeysClaimed('$5', '$6')}
        and (select count(*) from locked) = (select count(*) from wanted)
        and not exists (
          select from wanted join locked using (sku) where locked.held + wanted.quantity > locked.on_hand
        )
    )`),
};

/**
 * Places orders: takes their stock, starts their payment window and writes their event, all or nothing for each.
 *
 * @param options.partitionCount number of queues the deadlines are spread over
 * @param options.timesOf the policy of an order
 */
export function createCheckout(options: {
  database: Database;
  partitionCount: number;
  timesOf: (request: CheckoutRequest) => Pick<Policy, 'windowMs' | 'graceMs' | 'reminders'>;
}): (request: CheckoutRequest) => Promise<CheckoutAnswer> {
  const { database, partitionCount, timesOf } = options;
  /** Whether the last batch was all placed, so that the next one may well be. */
  let isPlain = true;
  const batches: Batcher<Draft, CheckoutAnswer> = groupCommit({
    database,
    commitAtOnce: async (drafts) => (isPlain ? placeAtOnce(database, drafts) : undefined),
    async commit(tx, drafts, retry) {
      const answers = await commitCheckouts(tx, drafts, retry);
      isPlain = answers.every((answer) => answer.outcome === 'placed' && !answer.replayed);
      return answers;
    },
    maxSize: 200,
    maxConcurrent: 2,
  });
  return (request) => {
    const { graceMs, reminders, ...policy } = timesOf(request);
    const windowMs = request.paymentWindowMs ?? policy.windowMs;
    const draft: Draft = {
      request,
      windowMs,
      graceMs,
      ...remindersWithin(windowMs, reminders),
      id: uuidv7(),
      partition: Math.floor(Math.random() * partitionCount),
      amount: request.items.reduce((sum, { quantity, unitAmount }) => sum + quantity * unitAmount, 0),
    };
    return awaitTwin(() => batches.submit(draft));
  };
}

/** What an order keeps of its policy's reminders; nothing where there are none. */
function remindersWithin(
  windowMs: number | null,
  reminders: readonly number[],
): Pick<Draft, 'reminders' | 'remindMs'> {
  if (windowMs === null || reminders.length === 0) return {};
  // All are kept: one that would lie before the checkout lies ahead after an extension.
  return { reminders, remindMs: reminders.find((beforeMs) => beforeMs < windowMs) };
}

/** How long a batch that is placed at once waits for its stock, ms. */
const atOnceLockTimeoutMs = 250;

/**
 * Places all orders of a batch in a single round trip, so that their stock is locked no longer than PostgreSQL works. With
 * one more, everybody who buys the same waited for a turn of this process's event loop.
 *
 * @returns undefined where one of them is not simply placed; then nothing was written
 */
async function placeAtOnce(
  database: Database,
  drafts: readonly Draft[],
): Promise<readonly CheckoutAnswer[] | undefined> {
  const keys = drafts.flatMap(({ request: { idempotency } }) => idempotency ?? []);
  if (new Set(keys.map(identity)).size < keys.length) return undefined;
  const wanted = new Map<string, number>();
  for (const { request } of drafts) {
    for (const { sku, quantity } of request.items) wanted.set(sku, (wanted.get(sku) ?? 0) + quantity);
  }
  const at = await transaction(
    database,
    async (tx) => {
      const names = [keys.map(({ scope }) => scope), keys.map(({ key }) => key)];
      const placing = Promise.all([
        tx.query(claimAllKeys, names),
        tx.query<{ at: Date }>(placeAllOrNone, [...rowsOf(drafts, wanted), [...wanted.keys()], ...names]),
      ]);
      tx.commit();
      const [, [row]] = await placing;
      return row?.at;
    },
    { lockTimeoutMs: atOnceLockTimeoutMs },
  );
  return at && drafts.map((draft) => ({ outcome: 'placed', order: newOrder(draft, at), replayed: false }));
}

async function commitCheckouts(
  tx: Transaction,
  drafts: readonly Draft[],
  retry: boolean,
): Promise<readonly CheckoutAnswer[]> {
  const claiming = claimKeys(
    tx,
    drafts.map(({ request }) => request),
  );
  const locking = retry ? withoutTwins(drafts, await claiming) : drafts;
  const skus = new Set(locking.flatMap(({ request }) => request.items.map(({ sku }) => sku)));
  const [claims, stock] = await Promise.all([claiming, tx.query<StockRow>(lockStock, [[...skus]])]);
  const ids = claims.flatMap((claim) => (claim.claim === 'replay' ? [claim.answer.orderId] : []));
  if (retry) ids.push(...drafts.map(({ id }) => id));
  const known = ids.length === 0 ? new Map<string, Order>() : await readOrders(tx, ids);

  const answers = drafts.map(({ id }, n) => answerKnown(claims[n], known, id));
  const open = drafts.flatMap((draft, n) => (answers[n] === undefined ? [{ draft, n }] : []));
  const { allocations, holds } = allocate(
    new Map(stock.map((row): [string, StockLevel] => [row.sku, { onHand: row.on_hand, held: row.held }])),
    open.map(({ draft }) => draft.request.items),
  );
  const placed = open.filter((_, k) => allocations[k]?.outcome === 'held').map(({ draft }) => draft);
  const at = placed.length === 0 ? undefined : await write(tx, placed, holds);

  open.forEach(({ draft, n }, k) => {
    answers[n] = answerAllocated(draft, allocations[k], at);
  });
  return answers.map((answer) => {
    if (answer === undefined) throw new Error('a checkout was left without an answer');
    return answer;
  });
}

/** The answer to a request whose outcome was decided before this batch, else undefined. */
function answerKnown(
  claim: Claim | undefined,
  known: ReadonlyMap<string, Order>,
  ownId: string,
): CheckoutAnswer | undefined {
  const own = known.get(ownId);
  if (own !== undefined) return { outcome: 'placed', order: own, replayed: false };
  switch (claim?.claim) {
    case 'reused':
      return { outcome: 'idempotency_key_reused' };
    case 'in_progress':
      return { outcome: 'idempotency_in_progress' };
    case 'replay': {
      const order = known.get(claim.answer.orderId);
      return order === undefined
        ? { outcome: 'order_not_found', orderId: claim.answer.orderId }
        : { outcome: 'placed', order, replayed: true };
    }
    case 'fresh':
    case undefined:
      return undefined;
  }
}

function answerAllocated(
  draft: Draft,
  allocation: Allocation | undefined,
  at: Date | undefined,
): CheckoutAnswer {
  if (allocation?.outcome === 'unknown_sku' || allocation?.outcome === 'out_of_stock') return allocation;
  if (at === undefined) throw new Error('stock was held for an order that was not written');
  return { outcome: 'placed', order: newOrder(draft, at), replayed: false };
}

async function write(
  tx: Transaction,
  drafts: readonly Draft[],
  holds: ReadonlyMap<string, number>,
): Promise<Date | undefined> {
  const placing = tx.query<{ at: Date }>(placeOrders, rowsOf(drafts, holds));
  tx.commit();
  const [row] = await placing;
  return row?.at;
}

/** The first parameters of a placement: orders, holds, keys. */
function rowsOf(drafts: readonly Draft[], holds: ReadonlyMap<string, number>): readonly string[] {
  const rows = drafts.map(({ request, ...drawn }, n) => {
    const { idempotency: _, paymentWindowMs: __, ...fields } = request;
    return { n, ...drawn, ...fields };
  });
  const keys = drafts.flatMap(({ request: { idempotency }, id }): KeptKey[] =>
    idempotency === undefined ? [] : [keep(idempotency, { orderId: id, paymentId: null, outcome: 'placed' })],
  );
  return [
    JSON.stringify(rows),
    JSON.stringify(Array.from(holds, ([sku, quantity]) => ({ sku, quantity }))),
    JSON.stringify(keys),
  ];
}

/** The order as the statement wrote it, without reading it back. */
function newOrder({ request, id, partition, amount, windowMs, graceMs, remindMs }: Draft, at: Date): Order {
  const afterMs = (ms: number): Date | null =>
    windowMs === null ? null : new Date(at.getTime() + windowMs + ms);
  return {
    id,
    partition,
    amount,
    reference: request.reference,
    channel: request.channel,
    paymentMethod: request.paymentMethod,
    status: 'pending_payment',
    cancelReason: null,
    currency: request.currency,
    items: request.items,
    metadata: request.metadata,
    createdAt: at,
    deadlineAt: afterMs(0),
    expireAt: afterMs(graceMs),
    remindAt: remindMs === undefined ? null : afterMs(-remindMs),
    remainingMs: windowMs,
    paidAt: null,
    cancelledAt: null,
  };
}
