import { transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
import { isoInstant } from './instant.ts';
import { nextReminder } from './next-reminder.ts';

/**
 * Freezes stop the clock of pending orders, for example while a payment provider is down.
 *
 * `frozen` → `thawing` → `done`. An order is held from the freeze until the thaw has moved it: its deadline by exactly
 * the time it stood frozen, the union of all freezes. What was frozen and given back is remembered on the row
 * (`thawed_through`), so that a thaw that was cut off goes on where it was, and overlapping freezes count once.
 *
 * A freeze has a scope: a channel, a payment method, a provider, each given or not; one without a scope is of everybody.
 * An order is in the scope of a provider from its first attempt there on, and stays in it: who could not pay there may
 * have given up.
 *
 * The brake (`brake.ts`) is a freeze of its own kind. It holds in the same way, but gives no time back: released, it is
 * `done` at once, or `thawing` until the orders that it held have the extension that somebody granted them.
 *
 * Freezes stand in a table of their own, which a statement that waits for a row's lock would read as it was before the
 * wait. Hence the lock: every expiry takes it shared before its statement, freezing and thawing take it alone.
 */
const freezeLock = 37_339;

const takeShared: Statement = {
  name: 'share_freeze_lock',
  text: `select pg_advisory_xact_lock_shared(${freezeLock})`,
};

const takeAlone: Statement = {
  name: 'take_freeze_lock',
  text: `select pg_advisory_xact_lock(${freezeLock})`,
};

/** How long a change of freezes waits for the expiry that is under way, ms: longer than that waits for any row. */
export const freezePatience = { lockTimeoutMs: 8000 } as const;

/** Waits for every expiry under way, and lets none begin until the transaction ends. Goes before freezes change. */
export async function takeFreezeLock(tx: Queryable): Promise<void> {
  await tx.query(takeAlone);
}

/** Keeps freezes as they are until the transaction ends. Goes before every expiry, as a statement of its own. */
export async function shareFreezeLock(tx: Queryable): Promise<void> {
  await tx.query(takeShared);
}

/** SQL: a column of a freeze. */
type FreezeColumn = (
  column: 'kind' | 'state' | 'thawing_at' | 'channel' | 'payment_method' | 'provider',
) => string;

const ofF: FreezeColumn = (column) => `f.${column}`;

/** SQL: the order `o` is in the scope of a freeze. Reads only the order's own row. */
const isInScope = (f: FreezeColumn): string => `(
            (${f('channel')} is null or o.channel = ${f('channel')})
            and (${f('payment_method')} is null or o.payment_method = ${f('payment_method')})
            and (${f('provider')} is null or jsonb_exists(o.providers, ${f('provider')}))
          )`;

/** SQL: since when it is. */
const inScopeSince = (f: FreezeColumn): string => `case
            when ${f('provider')} is null then o.created_at
            else (o.providers ->> ${f('provider')})::timestamptz
          end`;

/** SQL: a freeze, which is thawing, has not moved the order `o` yet. Reads only the order's own row. */
const isUnmovedBy = (f: FreezeColumn): string => `case ${f('kind')}
          when 'brake' then o.expire_at <= ${f('thawing_at')}
          else coalesce(o.thawed_through, '-infinity') < ${f('thawing_at')} and o.expire_at < 'infinity'
            and ${isInScope(f)} and ${inScopeSince(f)} < ${f('thawing_at')}
        end`;

/** SQL: the freeze `f` holds the order `o`. Reads only the order's own row. */
const isHolding = `case f.state
            when 'frozen' then ${isInScope(ofF)}
            when 'thawing' then ${isUnmovedBy(ofF)}
          end`;

/** SQL: the freeze `f` is of some orders only. */
const hasScope = 'coalesce(f.channel, f.payment_method, f.provider) is not null';

/** SQL: a freeze of some orders is on. Asks nothing of an order. */
export const isPartlyFrozen = `exists (select from freezes f where f.state = 'frozen' and ${hasScope})`;

/**
 * SQL: the clock of the row `o` stands still. Reads id, channel, payment_method, providers, created_at, expire_at and
 * thawed_through of `o`. Scalar subqueries, so that the planner makes no join of them that would lose the order of the sweeper's index. The first
 * one asks nothing of the order: it is answered once, and while all stands still a sweep reads no orders (with 500,000
 * overdue it took a second to find each of them frozen).
 */
export const isFrozen = `(
        coalesce((select true from freezes f where f.state = 'frozen' and not ${hasScope} limit 1), false)
        or coalesce((
          select true from freezes f
          where ${isHolding}
          limit 1
        ), false)
      )`;

/** Of which orders: those that fit all that is given. Nothing: of everybody. */
export interface FreezeScope {
  readonly channel?: string | undefined;
  readonly paymentMethod?: string | undefined;
  readonly provider?: string | undefined;
}

/** A time in which the clock stands still. */
export interface Freeze {
  readonly id: string;
  /** `brake`: expiry put it on by itself. */
  readonly kind: 'freeze' | 'brake';
  readonly state: 'frozen' | 'thawing' | 'done';
  readonly scope: FreezeScope;
  readonly reason: string;
  readonly actor: string;
  readonly frozenAt: Date;
  readonly thawingAt: Date | null;
  readonly doneAt: Date | null;
  /** Who released it, if it is a brake. */
  readonly releasedBy: string | null;
  /** What each held order got from the release on; null: nothing. */
  readonly extendMs: number | null;
}

/** SQL: the columns of a freeze `f`. */
export const freezeColumns = `
  f.id, f.kind, f.state,
  jsonb_strip_nulls(jsonb_build_object(
    'channel', f.channel, 'paymentMethod', f.payment_method, 'provider', f.provider
  )) as scope,
  f.reason, f.actor, f.frozen_at as "frozenAt", f.thawing_at as "thawingAt",
  f.done_at as "doneAt", f.released_by as "releasedBy", f.extend_ms as "extendMs"`;

const insertStatement = (name: string, condition: string): Statement => ({
  name,
  text: `
    insert into freezes as f (id, reason, actor, channel, payment_method, provider, frozen_at)
    select $1::uuid, $2::text, $3::text, $4::text, $5::text, $6::text, date_trunc('milliseconds', clock_timestamp())
    where ${condition}
    returning ${freezeColumns}`,
});

const insertFreeze = insertStatement('freeze', 'true');
const insertOnly = insertStatement(
  'freeze_once',
  `not exists (select from freezes other where other.actor = $3 and other.state = 'frozen')`,
);

/** A wish to stop the clock, and why. */
export interface FreezeRequest {
  readonly reason: string;
  readonly actor: string;
  readonly scope?: FreezeScope;
}

/** Stops the clock of every pending order in scope. When it returns, none of them is cancelled for time any more. */
export async function freeze(database: Database, request: FreezeRequest): Promise<Freeze> {
  const row = await write(database, insertFreeze, request);
  if (row === undefined) throw new Error('a freeze was not written');
  return row;
}

/**
 * Stops the clock in the same way, unless a freeze of the same actor stands: of the processes that find at the same time
 * that a provider is away, one freezes.
 *
 * @returns undefined where one stands
 */
export function freezeOnce(database: Database, request: FreezeRequest): Promise<Freeze | undefined> {
  return write(database, insertOnly, request);
}

/** Writes a freeze under the lock: a statement behind it sees what was frozen before. */
function write(
  database: Database,
  statement: Statement,
  request: FreezeRequest,
): Promise<Freeze | undefined> {
  const { reason, actor, scope: { channel = null, paymentMethod = null, provider = null } = {} } = request;
  return transaction(
    database,
    async (tx) => {
      await takeFreezeLock(tx);
      const values = [uuidv7(), reason, actor, channel, paymentMethod, provider];
      const [row] = await tx.query<Freeze>(statement, values);
      return row;
    },
    freezePatience,
  );
}

const beginThaw: Statement = {
  name: 'thaw',
  text: `
    update freezes f
    set state = 'thawing', thawing_at = date_trunc('milliseconds', clock_timestamp()), thaw_xid = pg_current_xact_id()
    where f.id = $1 and f.kind = 'freeze' and f.state = 'frozen'
    returning ${freezeColumns}`,
};

/**
 * Lets the clock of a freeze's orders go on. The workers move the deadlines; `done` says when all are moved. A brake is
 * not thawed but released.
 *
 * @returns undefined when there is no such freeze, or it is thawing already
 */
export function thaw(database: Database, id: string): Promise<Freeze | undefined> {
  return transaction(
    database,
    async (tx) => {
      await takeFreezeLock(tx);
      const [row] = await tx.query<Freeze>(beginThaw, [id]);
      return row;
    },
    freezePatience,
  );
}

const readFreeze: Statement = {
  name: 'read_freeze',
  text: `select ${freezeColumns} from freezes f where f.id = $1`,
};

/** A freeze, or brake, by its id. */
export async function findFreeze(db: Queryable, id: string): Promise<Freeze | undefined> {
  const [row] = await db.query<Freeze>(readFreeze, [id]);
  return row;
}

const readFreezes: Statement = {
  name: 'read_freezes',
  text: `select ${freezeColumns} from freezes f order by f.frozen_at desc, f.id desc limit $1`,
};

/** The newest freezes and brakes, newest first. */
export function listFreezes(db: Queryable, limit: number): Promise<Freeze[]> {
  return db.query<Freeze>(readFreezes, [limit]);
}

const readFrozenBy: Statement = {
  name: 'read_frozen_by',
  text: `select ${freezeColumns} from freezes f where f.state = 'frozen' and f.actor = any ($1::text[])`,
};

/** The freezes of these actors that nobody has thawed. */
export function frozenBy(db: Queryable, actors: readonly string[]): Promise<Freeze[]> {
  return db.query<Freeze>(readFrozenBy, [actors]);
}

const takeMoverLock: Statement = {
  name: 'thaw_mover_lock',
  text: `select pg_try_advisory_xact_lock(${freezeLock}, 1) as taken`,
};

const findThaw: Statement = {
  name: 'thaw_find',
  // Once every transaction that began before the thaw has ended, no order from before it can appear any more.
  text: `
    select f.id, pg_snapshot_xmin(pg_current_snapshot()) > f.thaw_xid as settled
    from freezes f
    where f.state = 'thawing'
    order by f.thawing_at, f.id
    limit 1`,
};

/** SQL: the pending order `o` is still to be moved by the freeze in the CTE `thaw`. */
const isUnmoved = `o.status = 'pending_payment' and ${isUnmovedBy((column) => `(select ${column} from thaw)`)}`;

const theThaw = `thaw as materialized (
      select kind, thawing_at, channel, payment_method, provider, released_by,
        extend_ms * interval '1 ms' as extension
      from freezes where id = $1
    )`;

/** SQL: an interval without days, whose length would depend on the session's time zone where summer time begins. */
const seconds = (interval: string): string => `extract(epoch from ${interval}) * interval '1 second'`;

const movePage: Statement = {
  name: 'thaw_move',
  text: `
    with ${theThaw}, page as materialized (
      select o.id from orders o
      where ${isUnmoved} and o.check_at >= $3
      order by o.check_at
      limit $2
    ), locked as materialized (
      select o.id, o.channel, o.payment_method, o.providers, o.created_at, o.deadline_at, o.thawed_through, o.check_at
      from orders o
      where o.id in (select id from page) and ${isUnmoved}
      order by o.id
      for no key update
    ), given_back as materialized (
      select
        o.id, o.deadline_at, o.check_at, stood.still,
        -- A brake gives no time back. What it grants counts from its release, so that the end of a freeze that it
        -- lay in is not lost either.
        greatest(stood.still, ${seconds('thaw.thawing_at + thaw.extension - o.deadline_at')}) as shift
      from locked o
      cross join thaw
      cross join lateral (
        -- The union of all freezes, from where an earlier thaw ended to this one.
        select coalesce(${seconds('sum(upper(span) - lower(span))')}, interval '0') as still
        from unnest((
          select range_agg(tstzrange(bounds.begin_at, bounds.end_at))
          from freezes f
          cross join lateral (
            select
              greatest(f.frozen_at, ${inScopeSince(ofF)}, o.thawed_through) as begin_at,
              least(f.thawing_at, thaw.thawing_at) as end_at
          ) as bounds
          where f.kind = 'freeze' and ${isInScope(ofF)} and bounds.begin_at < bounds.end_at
        )) as span
      ) as stood
    ), moved as (
      update orders o
      set
        deadline_at = o.deadline_at + given_back.shift,
        expire_at = o.expire_at + given_back.shift,
        check_at = o.expire_at + given_back.shift,
        -- A thaw gives the reminder its time back; what a brake held has a new deadline, and those that lie before it.
        remind_at = case thaw.kind
          when 'brake' then ${nextReminder('o.deadline_at + given_back.shift', 'clock_timestamp()')}
          else o.remind_at + given_back.shift
        end,
        -- Its time goes on: the customer may pay in another way again.
        closing_at = case when o.expire_at + given_back.shift <= clock_timestamp() then o.closing_at end,
        thawed_through = thaw.thawing_at
      from given_back cross join thaw
      where o.id = given_back.id and o.status = 'pending_payment'
      returning o.id as "orderId", o.partition, o.created_at as "createdAt", o.expire_at as "expireAt",
        o.remind_at as "remindAt", o.deadline_at, given_back.still, given_back.deadline_at as deadline_before,
        given_back.check_at as "checkedAt"
    ), logged as (
      insert into events (order_id, type, actor, at, data)
      select
        "orderId",
        case thaw.kind when 'brake' then 'order.extended' else 'order.thawed' end,
        coalesce(thaw.released_by, 'worker'),
        date_trunc('milliseconds', clock_timestamp()),
        case thaw.kind
          when 'brake' then jsonb_build_object('brakeId', $1::uuid)
          else jsonb_build_object('freezeId', $1::uuid, 'frozenMs', round(extract(epoch from still) * 1000))
        end || jsonb_build_object(
          'from', ${isoInstant('deadline_before')},
          'to', ${isoInstant('deadline_at')}
        )
      from moved cross join thaw
      order by "orderId"
    )
    select "orderId", partition, "createdAt", "expireAt", "remindAt", "checkedAt" from moved`,
};

const finishThaw: Statement = {
  name: 'thaw_finish',
  // Asks again: a page comes back empty, too, when all of its orders were paid while it waited for their locks.
  text: `
    with ${theThaw}
    update freezes set state = 'done', done_at = date_trunc('milliseconds', clock_timestamp())
    where id = $1 and state = 'thawing' and not exists (select from orders o where ${isUnmoved})
    returning id`,
};

/** A deadline that must be armed, and the next reminder before it. */
export interface MovedDeadline {
  readonly orderId: string;
  readonly partition: number;
  readonly createdAt: Date;
  readonly expireAt: Date;
  readonly remindAt: Date | null;
}

/** A step of a thaw. */
export type ThawStep =
  | { readonly state: 'idle' }
  /** These were moved and are now to be armed; the next step may begin its search at `through`. */
  | { readonly state: 'moved'; readonly deadlines: readonly MovedDeadline[]; readonly through: Date }
  /** All are moved, but a transaction from before the thaw may still bring another. */
  | { readonly state: 'waiting' }
  | { readonly state: 'done'; readonly freezeId: string };

const theBeginning = new Date(0);

/**
 * Does the next step of the thaw that began first: moves up to `limit` orders, or ends it when none is left. One
 * process at a time does it; for the others there is nothing to do.
 *
 * @param from where to begin in the order of check_at; without it every page would read those before it again. Leave it
 *   out now and then while the step is `waiting`
 */
export function thawStep(database: Database, limit: number, from: Date = theBeginning): Promise<ThawStep> {
  return transaction(database, async (tx): Promise<ThawStep> => {
    const [lock] = await tx.query<{ taken: boolean }>(takeMoverLock);
    if (lock?.taken !== true) return { state: 'idle' };
    const [thawing] = await tx.query<{ id: string; settled: boolean }>(findThaw);
    if (thawing === undefined) return { state: 'idle' };
    // An order from before the thaw that appears late may lie before `from`: looked for when no more can appear.
    const again = from > theBeginning && thawing.settled ? [theBeginning] : [];
    for (const start of [from, ...again]) {
      const rows = await tx.query<MovedDeadline & { checkedAt: Date }>(movePage, [thawing.id, limit, start]);
      if (rows.length > 0) {
        const through = new Date(Math.max(...rows.map(({ checkedAt }) => checkedAt.getTime())));
        const deadlines = rows.map(({ checkedAt: _, ...deadline }) => deadline);
        return { state: 'moved', deadlines, through };
      }
    }
    if (!thawing.settled) return { state: 'waiting' };
    const [done] = await tx.query<{ id: string }>(finishThaw, [thawing.id]);
    return done === undefined
      ? { state: 'moved', deadlines: [], through: theBeginning }
      : { state: 'done', freezeId: done.id };
  });
}

const readActive: Statement = {
  name: 'read_active_freezes',
  text: `
    select ${freezeColumns} from freezes f
    where f.kind = 'freeze' and f.state <> 'done'
    order by f.frozen_at, f.id
    limit $1`,
};

/** The freezes that are not done, the oldest first. The brake is none: see `activeBrake`. */
export function activeFreezes(db: Queryable, limit: number): Promise<Freeze[]> {
  return db.query<Freeze>(readActive, [limit]);
}

const readHolding: Statement = {
  name: 'read_freezes_of_order',
  text: `
    select ${freezeColumns} from orders o
    join freezes f on f.kind = 'freeze' and ${isHolding}
    where o.id = $1
    order by f.frozen_at, f.id`,
};

/** The freezes that hold an order: those in whose scope it is, until their thaw has moved it. The oldest first. */
export function freezesOf(db: Queryable, orderId: string): Promise<Freeze[]> {
  return db.query<Freeze>(readHolding, [orderId]);
}
