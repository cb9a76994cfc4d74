import { transaction, type Database, type Statement } from '@lapse/runtime';
import { isFrozen, shareFreezeLock } from './freeze.ts';
import { isoInstant } from './instant.ts';
import { nextReminder } from './next-reminder.ts';

/**
 * What came of looking whether an order's customer is to be reminded.
 *
 * - `reminded` now; the next reminder is due in `nextMs`, null: there is none
 * - `not_due` for another `remainingMs`
 * - `none`: it was paid or cancelled, its time is over or stands still, no reminder is left, or there is no such order.
 *   Whatever changes that arms the next reminder itself
 */
export type RemindAnswer =
  | { readonly answer: 'reminded'; readonly nextMs: number | null }
  | { readonly answer: 'not_due'; readonly remainingMs: number }
  | { readonly answer: 'none' };

/** Somebody changes the order right now; this much later is soon enough to look again, ms. */
const heldPauseMs = 1000;

/** One process at a time sweeps: while some orders are frozen, each sweep passes those of them whose reminders wait. */
const sweepLock = 52_907;

const isPending = "o.status = 'pending_payment'";

/** SQL: what an order is judged by. */
const judgedColumns = `o.id, o.status, o.channel, o.payment_method, o.providers, o.created_at, o.deadline_at,
        o.expire_at, o.thawed_through, o.closing_at, o.remind_at`;

/**
 * The statement that reminds. Rows are locked first and judged as they are under the lock, as in `expire.ts`; a row that
 * somebody has in hand is waited for by nobody, it is looked at again. Several reminders that were missed are one: the
 * last of them.
 *
 * @param subject SQL that selects and locks the rows `o`
 * @param named SQL: the ids that are answered; those that are not locked are `held`
 */
const remindStatement = (name: string, subject: string, named: string): Statement => ({
  name,
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), locked as materialized (
      ${subject}
    ), judged as materialized (
      select o.id, o.remind_at, case
        when not (${isPending}) or o.remind_at is null or ${isFrozen} then 'none'
        when o.deadline_at <= clock.at then 'over'
        when o.closing_at is not null then 'none'
        when o.remind_at > clock.at then 'not_due'
        else 'due'
      end as answer
      from locked o cross join clock
    ), moved as (
      -- What is over leaves the index of what is due.
      update orders o set remind_at = ${nextReminder('o.deadline_at', 'clock.at')}
      from judged cross join clock
      where o.id = judged.id and judged.answer in ('due', 'over') and ${isPending} and o.remind_at <= clock.at
      returning o.id, judged.answer, o.reminders, o.deadline_at, o.remind_at as next_at, clock.at
    ), told as (
      insert into events (order_id, type, actor, at, data)
      select id, 'order.payment_reminder', $2::text, at, jsonb_build_object(
        'deadlineAt', ${isoInstant('deadline_at')},
        'beforeMs', (
          select min(before_ms) from unnest(reminders) as before_ms
          where deadline_at - before_ms * interval '1 ms' <= at
        )
      )
      from moved
      where answer = 'due'
      order by id
    )
    select
      named.id,
      coalesce(judged.answer, 'held') as answer,
      (extract(
        epoch from case judged.answer when 'due' then moved.next_at else judged.remind_at end - clock.at
      ) * 1000)::float8 as ahead_ms
    from (${named}) as named
    left join judged on judged.id = named.id
    left join moved on moved.id = named.id
    cross join clock`,
});

const remindById = remindStatement(
  'remind_by_id',
  `select ${judgedColumns} from orders o
      where o.id = any ($1::uuid[])
      order by o.id
      for no key update skip locked`,
  'select id from orders where id = any ($1::uuid[])',
);

const sweepMissed = remindStatement(
  'remind_sweep',
  `select ${judgedColumns} from orders o
      where ${isPending} and o.remind_at <= (select at from clock) and not ${isFrozen}
        and (select pg_try_advisory_xact_lock(${sweepLock}))
      order by o.remind_at
      limit $1
      for no key update of o skip locked`,
  'select id from judged',
);

interface JudgedRow {
  readonly id: string;
  readonly answer: 'due' | 'over' | 'not_due' | 'none' | 'held';
  /** Until the next reminder, ms; null where there is none. */
  readonly ahead_ms: number | null;
}

/**
 * Writes the reminders of those of the given orders for which one is due: pending, before their deadline, and not frozen.
 *
 * @param ids order ids; a repeated one counts once
 * @param actor who does it, for the event
 * @returns an answer for each order that there is
 * @throws DatabaseUnavailable when nothing could be found out
 */
export function remind(
  database: Database,
  ids: readonly string[],
  actor: string,
): Promise<ReadonlyMap<string, RemindAnswer>> {
  return judge(database, remindById, [ids, actor]);
}

/**
 * Finds reminders that are due without the queue and writes them, those that wait longest first.
 *
 * @param limit most orders in this round
 * @returns the answers by id; as many as `limit` means that there may be more
 * @throws DatabaseUnavailable when nothing could be found out
 */
export function sweepReminders(
  database: Database,
  limit: number,
  actor: string,
): Promise<ReadonlyMap<string, RemindAnswer>> {
  return judge(database, sweepMissed, [limit, actor]);
}

function judge(
  database: Database,
  statement: Statement,
  values: readonly unknown[],
): Promise<ReadonlyMap<string, RemindAnswer>> {
  return transaction(database, async (tx) => {
    const judging = Promise.all([shareFreezeLock(tx), tx.query<JudgedRow>(statement, values)]);
    tx.commit();
    const [, rows] = await judging;
    return new Map(rows.map((row) => [row.id, toAnswer(row)]));
  });
}

function toAnswer({ answer, ahead_ms: aheadMs }: JudgedRow): RemindAnswer {
  switch (answer) {
    case 'due':
      return { answer: 'reminded', nextMs: aheadMs };
    case 'not_due':
      return { answer, remainingMs: aheadMs ?? 0 };
    case 'held':
      return { answer: 'not_due', remainingMs: heldPauseMs };
    case 'over':
    case 'none':
      return { answer: 'none' };
  }
}
