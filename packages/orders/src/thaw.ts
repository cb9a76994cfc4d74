import { transaction, type Database, type Statement } from '@lapse/runtime';
import {
  freezeColumns,
  freezeLock,
  freezePatience,
  inScopeSince,
  isInScope,
  isUnmovedBy,
  ofF,
  takeFreezeLock,
  type Freeze,
} from './freeze.ts';
import { isoInstant } from './instant.ts';
import { nextReminder } from './next-reminder.ts';
import { askAgain } from './open-attempts.ts';

const beginThaw: Statement = {
  name: 'thaw',
  text: `
    update freezes f
    set state = 'thawing', thawing_at = date_trunc('milliseconds', clock_timestamp()), thaw_xid = pg_current_xact_id(),
      released_by = $2
    where f.id = $1 and f.kind = 'freeze' and f.state = 'frozen'
    returning ${freezeColumns}`,
};

/**
 * Lets the clock of a freeze's orders go on. The workers move the deadlines; `done` says when all are moved. A brake is
 * not thawed but released.
 *
 * @param actor who thaws it
 * @returns undefined when there is no such freeze, or it is thawing already
 */
export function thaw(database: Database, id: string, actor: string): Promise<Freeze | undefined> {
  return transaction(
    database,
    async (tx) => {
      await takeFreezeLock(tx);
      const [row] = await tx.query<Freeze>(beginThaw, [id, actor]);
      return row;
    },
    freezePatience,
  );
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
      returning o.id, o.expire_at, o.open_attempt_count, o.id as "orderId", o.partition, o.created_at as "createdAt", o.expire_at as "expireAt",
        o.remind_at as "remindAt", o.deadline_at, given_back.still, given_back.deadline_at as deadline_before,
        given_back.check_at as "checkedAt"
    ), ${askAgain('moved')}, logged as (
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
