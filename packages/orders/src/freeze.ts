import { transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';

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
export const freezeLock = 37_339;

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

export const ofF: FreezeColumn = (column) => `f.${column}`;

/** SQL: the order `o` is in the scope of a freeze. Reads only the order's own row. */
export const isInScope = (f: FreezeColumn): string => `(
            (${f('channel')} is null or o.channel = ${f('channel')})
            and (${f('payment_method')} is null or o.payment_method = ${f('payment_method')})
            and (${f('provider')} is null or jsonb_exists(o.providers, ${f('provider')}))
          )`;

/** SQL: since when it is. */
export const inScopeSince = (f: FreezeColumn): string => `case
            when ${f('provider')} is null then o.created_at
            else (o.providers ->> ${f('provider')})::timestamptz
          end`;

/** SQL: a freeze, which is thawing, has not moved the order `o` yet. Reads only the order's own row. */
export const isUnmovedBy = (f: FreezeColumn): string => `case ${f('kind')}
          when 'brake' then o.expire_at <= ${f('thawing_at')}
          else coalesce(o.thawed_through, '-infinity') < ${f('thawing_at')} and o.expire_at < 'infinity'
            and ${isInScope(f)} and ${inScopeSince(f)} < ${f('thawing_at')}
        end`;

/** SQL: the freeze `f` holds the order `o`. Reads only the order's own row. */
export const isHolding = `case f.state
            when 'frozen' then ${isInScope(ofF)}
            when 'thawing' then ${isUnmovedBy(ofF)}
          end`;

/** SQL: the freeze `f` is of some orders only. */
const hasScope = 'coalesce(f.channel, f.payment_method, f.provider) is not null';

/** SQL: a freeze of some orders is on. Asks nothing of an order. */
export const isPartlyFrozen = `exists (select from freezes f where f.state = 'frozen' and ${hasScope})`;

/** SQL: a freeze or a brake of everybody is on. Asks nothing of an order. */
export const isWhollyFrozen = `coalesce((select true from freezes f where f.state = 'frozen' and not ${hasScope} limit 1), false)`;

/**
 * SQL: the clock of the row `o` stands still. Reads id, channel, payment_method, providers, created_at, expire_at and
 * thawed_through of `o`. Scalar subqueries, so that the planner makes no join of them that would lose the order of the
 * sweeper's index. The first one asks nothing of the order: it is answered once, and while all stands still a sweep reads
 * no orders (with 500,000 overdue it took a second to find each of them frozen).
 */
export const isFrozen = `(
        ${isWhollyFrozen}
        or coalesce((
          select true from freezes f
          where f.state <> 'done' and ${isHolding}
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
  /** Who thawed it, or released it, if it is a brake. Null: nobody yet, or a thaw of before this was kept. */
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
  text: `
    select ${freezeColumns} from freezes f
    where f.state <> 'done'
      or f.id in (select newest.id from freezes newest order by newest.frozen_at desc, newest.id desc limit $1)
    order by f.frozen_at desc, f.id desc`,
};

/** The newest `limit` freezes and brakes, and all that are not done, however old: newest first. */
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
