import { queryable, transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
import { freezeColumns, freezePatience, isFrozen, takeFreezeLock, type Freeze } from './freeze.ts';

/**
 * The brake: when too much is suddenly overdue (after an outage, after a restore from backup), expiry holds by itself
 * until a person releases it. Cancelling everyone who could not pay is worse than being late.
 *
 * It is a freeze of its own kind, so the lock and the guards of freezes hold all orders; what is due meanwhile, too.
 * Whoever is first to cancel something looks for a backlog, in the same statement and before it cancels
 * (`isSuspicious`). Where the look finds more than the bound, nothing is cancelled, its transaction ends, and so its
 * shared lock. Then everything is counted, and the brake put on under the lock, taken alone, where the count is taken
 * again. What a release let go is not counted again: it drains.
 */
export interface BrakeLimits {
  /** More orders than these must be overdue by 5 minutes. 0: the brake never goes on by itself. Default 1000. */
  readonly orders: number;
  /** And more than this share of all pending orders, 0 to 1. Default 0.05. */
  readonly share: number;
}

export const defaultBrake: BrakeLimits = { orders: 1000, share: 0.05 };

/** SQL: overdue by this much, an order belongs to a backlog. Expiry that works is late by milliseconds, or 3 s. */
const backlogAge = "interval '5 minutes'";

/** SQL: the pending order `o` has been overdue for long. Needs a CTE `clock`. */
const isLongOverdue = `o.status = 'pending_payment' and o.check_at <= (select at from clock) - ${backlogAge}`;

/** SQL: when the last backlog was let go; what was overdue then is not counted again. */
const letGoAt = `coalesce((select max(f.thawing_at) from freezes f where f.kind = 'brake'), '-infinity')`;

/**
 * SQL: there may be too much overdue to cancel the rows of the CTE `judged` that are `due`, or to close the payment
 * attempts of those that are `closing`. Needs the CTE `clock`.
 *
 * Reads no more than one row above the bound, and those only where a row to cancel is old itself, or `lookAnyway`:
 * what stands in the index before them may be a million orders that were cancelled since the last vacuum.
 *
 * @param bound SQL: the most orders that may be overdue; 0 for any number
 * @param lookAnyway SQL: whether to look where the rows are not old themselves
 */
export const isSuspicious = (bound: string, lookAnyway: string): string => `case
        when ${bound} = 0 then false
        when not exists (
          select from judged
          where answer in ('due', 'closing') and (${lookAnyway} or expire_at <= (select at from clock) - ${backlogAge})
        ) then false
        else (
          select count(*) > ${bound}
          from (
            -- Backwards and with one bound: with both, the planner expects few rows, and reads and sorts them all.
            select o.check_at from orders o
            where ${isLongOverdue}
            order by o.check_at desc
            limit ${bound} + 1
          ) as latest
          where check_at > ${letGoAt}
        )
      end`;

/**
 * SQL: the number of orders in the backlog, and of pending ones, and whether that is too much. An order that a freeze
 * holds is not late: its deadline will move.
 */
const countBacklog = `
    clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), counted as materialized (
      select
        (
          select count(*) from orders o
          where ${isLongOverdue} and o.check_at > ${letGoAt} and not ${isFrozen}
        ) as backlog,
        (select count(*) from orders where status = 'pending_payment') as pending
    ), weighed as materialized (
      select *, backlog > $1::int and backlog > $2::numeric * pending as too_much from counted
    )`;

const weigh: Statement = {
  name: 'brake_weigh',
  text: `with ${countBacklog} select too_much as "tooMuch" from weighed`,
};

const putOn: Statement = {
  name: 'brake_put_on',
  text: `
    with ${countBacklog}
    insert into freezes as f (id, kind, reason, actor, frozen_at)
    select
      $3::uuid, 'brake',
      to_char(backlog, 'FM999,999,999,999') || ' of ' || to_char(pending, 'FM999,999,999,999')
        || ' pending orders were overdue by 5 minutes or more',
      $4::text, clock.at
    from weighed cross join clock
    where too_much
    on conflict (kind) where kind = 'brake' and state = 'frozen' do nothing`,
};

const isBrakeOn: Statement = {
  name: 'brake_is_on',
  text: `select exists (select from freezes where kind = 'brake' and state = 'frozen') as on`,
};

/** How often a process looks for a backlog though the orders in its hands are not old, ms. */
const lookEveryMs = 1000;

function isRecent(atMs: number): boolean {
  const passedMs = Date.now() - atMs;
  // Negative where the clock was set back: that must not put the look off.
  return passedMs >= 0 && passedMs < lookEveryMs;
}

/** Keeps expiry from cancelling a backlog. */
export interface Brake {
  /**
   * What the judging statement needs: the bound of `isSuspicious`, and whether to look anyway. Where the backlog was
   * weighed a moment ago and found small enough, there is no bound: with 300,000 pending orders a count takes 30 ms.
   */
  bounds(): readonly [bound: number, lookAnyway: boolean];
  /** Tells that something was cancelled under these bounds. */
  looked(bounds: readonly [bound: number, lookAnyway: boolean]): void;
  /** Weighs what is overdue and holds expiry if it is too much. Not within a transaction that shares the freeze lock. */
  hold(actor: string): Promise<boolean>;
}

/** Makes the brake of one process. */
export function createBrake(database: Database, limits: BrakeLimits): Brake {
  const { orders, share } = limits;
  let lookedAtMs = 0;
  let weighedAtMs = 0;
  const holdIfTooMuch = (actor: string): Promise<boolean> =>
    transaction(
      database,
      async (tx) => {
        await takeFreezeLock(tx);
        const [, [state]] = await Promise.all([
          tx.query(putOn, [orders, share, uuidv7(), actor]),
          tx.query<{ on: boolean }>(isBrakeOn),
        ]);
        return state?.on === true;
      },
      freezePatience,
    );
  return {
    bounds: () => [isRecent(weighedAtMs) ? 0 : orders, !isRecent(lookedAtMs)],
    looked([, lookAnyway]) {
      if (lookAnyway) lookedAtMs = Date.now();
    },
    async hold(actor) {
      // First without the lock: while a backlog is too small for the brake, expiry need not queue up for it.
      const [found] = await queryable(database).query<{ tooMuch: boolean }>(weigh, [orders, share]);
      const isHeld = found?.tooMuch === true && (await holdIfTooMuch(actor));
      if (!isHeld) weighedAtMs = Date.now();
      return isHeld;
    },
  };
}

/** A brake that holds orders: until its release and, if that grants an extension, until each order has it. */
export interface ActiveBrake extends Freeze {
  /** Pending orders whose time is over, counted up to 10,000. Those whose time is not over yet are held as well. */
  readonly heldCount: number;
}

const readActive: Statement = {
  name: 'brake_read_active',
  text: `
    select ${freezeColumns}, (
      select count(*) from (
        select from orders o
        where o.status = 'pending_payment' and o.check_at <= coalesce(f.thawing_at, (select clock_timestamp()))
        limit 10000
      ) as held
    ) as "heldCount"
    from freezes f
    where f.kind = 'brake' and f.state <> 'done'
    order by f.state = 'frozen' desc, f.frozen_at
    limit 1`,
};

/** The brake that is on; else one whose release is still granting extensions; else undefined. */
export async function activeBrake(db: Queryable): Promise<ActiveBrake | undefined> {
  const [row] = await db.query<ActiveBrake>(readActive);
  return row;
}

/** How a held backlog is let go. */
export interface ResumeRequest {
  readonly actor: string;
  /** What each held order gets, counted from the release, 1 s to 90 days; null: nothing, it is cancelled at once. */
  readonly extendMs: number | null;
}

/** What became of it. `resuming`: an earlier release is still granting its extension, this one changed nothing. */
export type ResumeAnswer =
  | { readonly outcome: 'resumed' | 'resuming'; readonly brake: Freeze }
  | { readonly outcome: 'not_held' };

const release: Statement = {
  name: 'brake_release',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    )
    update freezes f set
      state = case when $2::bigint is null then 'done' else 'thawing' end,
      thawing_at = clock.at,
      thaw_xid = pg_current_xact_id(),
      done_at = case when $2::bigint is null then clock.at end,
      released_by = $1,
      extend_ms = $2::bigint
    from clock
    where f.kind = 'brake' and f.state = 'frozen'
    returning ${freezeColumns}`,
};

const readResuming: Statement = {
  name: 'brake_read_resuming',
  text: `
    select ${freezeColumns} from freezes f
    where f.kind = 'brake' and f.state = 'thawing'
    order by f.thawing_at desc
    limit 1`,
};

/**
 * Lets expiry go on. Without an extension the sweepers cancel what is overdue; with one, the workers first move the
 * deadline of every order that was held, as in a thaw, and `done` says when all are moved.
 */
export function resume(database: Database, { actor, extendMs }: ResumeRequest): Promise<ResumeAnswer> {
  return transaction(
    database,
    async (tx): Promise<ResumeAnswer> => {
      await takeFreezeLock(tx);
      const [brake] = await tx.query<Freeze>(release, [actor, extendMs]);
      if (brake !== undefined) return { outcome: 'resumed', brake };
      const [resuming] = await tx.query<Freeze>(readResuming);
      return resuming === undefined ? { outcome: 'not_held' } : { outcome: 'resuming', brake: resuming };
    },
    freezePatience,
  );
}
