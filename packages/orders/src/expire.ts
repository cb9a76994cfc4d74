import {
  LockTimeout,
  queryable,
  transaction,
  type BatchAnswer,
  type Database,
  type Statement,
  type Transaction,
} from '@lapse/runtime';
import { claimMs } from './asks.ts';
import { createBrake, isSuspicious, type Brake, type BrakeLimits } from './brake.ts';
import { isFrozen, isPartlyFrozen, isWhollyFrozen, shareFreezeLock } from './freeze.ts';
import { commitInHalves, isDataError } from './group-commit.ts';
import { isoInstant } from './instant.ts';
import { releaseHolds } from './release.ts';

/**
 * What expiry found about an order.
 *
 * - `cancelled` now, `latenessMs` after it was due
 * - `not_due` for another `remainingMs`
 * - `settled` before: paid or cancelled
 * - `frozen`: its clock stands still, the thaw will arm it again; or the brake holds it, and the sweeper will see to it
 * - `closing`: a payment attempt may still bring money, so the order is fenced. Who is answered `isOurs` asks its providers
 *   now; else somebody is asking, or it is too early to ask again
 * - `unknown`: there is no such order
 * - `failed`: the database refused to cancel this one; the sweeper tries it again later
 */
export type ExpireAnswer =
  | { readonly answer: 'cancelled'; readonly latenessMs: number }
  | { readonly answer: 'not_due'; readonly remainingMs: number }
  | { readonly answer: 'settled' }
  | { readonly answer: 'frozen' }
  | { readonly answer: 'closing'; readonly isOurs: boolean }
  | { readonly answer: 'unknown' }
  | { readonly answer: 'failed'; readonly error: Error };

/** What is no UUID names no order; handed to the database it would be an error. */
const uuid = /^[\da-f]{8}-(?:[\da-f]{4}-){3}[\da-f]{12}$/i;

/** An order that could not be cancelled is left alone for this long, ms. */
const failedPauseMs = 60_000;
/** And one whose row, or whose stock, somebody holds. */
const heldPauseMs = 5000;
/** How often a process puts off those that stand still, ms. */
const putOffEveryMs = 1000;

/** The order's time is over, by the database's clock. Stands wherever something is cancelled for time. */
const isDue = 'o.expire_at <= clock.at';
const isPending = "o.status = 'pending_payment'";
/** The sweeper may look at it. A scalar subquery, so that the index on check_at gives both the rows and their order. */
const isOverdue = 'o.check_at <= (select at from clock)';

/** SQL: what an order is judged by. */
const judgedColumns = `o.id, o.status, o.channel, o.payment_method, o.providers, o.created_at, o.expire_at, o.check_at,
        o.thawed_through, o.open_attempt_count, o.closing_at`;

/**
 * The statement that expires orders.
 *
 * Rows are locked first and judged as they are under the lock, by one reading of the database's clock. The update
 * repeats what must be true of the row, so that it stands by itself. Where too much may be overdue, nothing is
 * cancelled: `held` is then the answer for what is due.
 *
 * @param subject SQL of the CTEs `locked`, which selects and locks the rows `o`, and `clock`
 */
const expireStatement = (name: string, subject: string): Statement => ({
  name,
  text: `
    with ${subject}, judged as materialized (
      select o.id, o.expire_at, o.closing_at is null as is_unfenced, case
        when not (${isPending}) then 'settled'
        when ${isFrozen} then 'frozen'
        when not (${isDue}) then 'not_due'
        when o.open_attempt_count = 0 then 'due'
        when o.closing_at is null or o.check_at <= clock.at then 'closing'
        else 'asked'
      end as answer
      from locked o cross join clock
    ), decided as materialized (
      select case when ${isSuspicious('$3::int', '$4::boolean')} then 'held' else 'cancelled' end as for_due
    ), cancelled as (
      update orders o
      set status = 'cancelled', cancel_reason = 'payment_timeout', cancelled_at = clock.at, closing_at = null
      from judged cross join clock cross join decided
      -- Not that no attempt is open: an update finds rows as they were when its statement began, and would pass by one whose
      -- last attempt was closed while the lock was waited for, which is judged due. The others are true for good.
      where o.id = judged.id and judged.answer = 'due' and for_due = 'cancelled' and ${isPending} and ${isDue}
      returning o.id, o.expire_at, o.items, clock.at
    ), fenced as (
      -- Whoever is answered has this long to ask the providers; then the next sweep finds it again.
      update orders o
      set closing_at = coalesce(o.closing_at, clock.at), check_at = clock.at + interval '${claimMs} ms'
      from judged cross join clock cross join decided
      where o.id = judged.id and judged.answer = 'closing' and for_due = 'cancelled' and ${isPending}
      returning o.id, judged.is_unfenced as is_new, clock.at
    ), told as (
      insert into events (order_id, type, actor, at, data)
      select id, 'order.closing', $2::text, at, '{}' from fenced where is_new
      order by id
    ), ${releaseHolds('cancelled')}, logged as (
      insert into events (order_id, type, actor, at, data)
      select id, 'order.cancelled', $2::text, at, jsonb_build_object(
        'reason', 'payment_timeout', 'expireAt', ${isoInstant('expire_at')},
        'latenessMs', round(extract(epoch from at - expire_at) * 1000)
      )
      from cancelled
      order by id
    )
    select
      id,
      case when answer = 'due' or answer = 'closing' and for_due = 'held' then for_due else answer end as answer,
      (extract(epoch from expire_at - clock.at) * 1000)::float8 as remaining_ms
    from judged cross join clock cross join decided`,
});

const readClock = "select date_trunc('milliseconds', clock_timestamp()) as at";

const expireById = expireStatement(
  'expire_by_id',
  `locked as materialized (
      select ${judgedColumns} from orders o
      where o.id = any ($1::uuid[])
      order by o.id
      for no key update
    ), clock as materialized (
      -- Read when all of them are locked. Read at the first one, an order that had to be waited for was cancelled some ms
      -- before its last attempt was closed.
      ${readClock} from (select count(*) from locked) as all_of_them
    )`,
);

/**
 * While a thaw moves orders, or some are frozen, most of what is overdue may stand still, and each worker would read all of
 * it each second: 300,000 in 340 ms. So a sweep reads no further than this many; what lies behind waits for the thaw to
 * get there, or for the frozen ones to be put off.
 */
const isWithinReach = `o.check_at <= case
        when ${isPartlyFrozen} or exists (
          select from freezes f where f.kind = 'freeze' and f.state = 'thawing'
        ) then coalesce((
          select late.check_at from orders late
          where late.status = 'pending_payment' and late.check_at <= (select at from clock)
          order by late.check_at offset 20000 limit 1
        ), 'infinity')
        else 'infinity'
      end`;

const sweepDue = expireStatement(
  'expire_sweep',
  // Rows that somebody works on are left to him, so the sweeper waits for nothing and can take them by check_at.
  `clock as materialized (
      ${readClock}
    ), locked as materialized (
      select ${judgedColumns} from orders o
      where ${isPending} and ${isOverdue} and ${isWithinReach} and not ${isFrozen}
      order by o.check_at
      limit $1
      for no key update of o skip locked
    )`,
);

/**
 * Where some orders are frozen, those of them that are overdue are put off for about 5 minutes, so that they do not stand
 * before the others in each sweep. Their thaw moves them however far they were put off. While all stand still no sweep reads
 * any, and what the brake holds is not moved by a thaw: nothing is put off then.
 */
const putOffFrozen: Statement = {
  name: 'expire_put_off_frozen',
  text: `
    with clock as materialized (
      select date_trunc('milliseconds', clock_timestamp()) as at
    ), frozen as materialized (
      select o.id from orders o
      where ${isPartlyFrozen} and not ${isWhollyFrozen} and ${isPending} and ${isOverdue} and ${isFrozen}
      order by o.check_at
      limit 20000
      for no key update of o skip locked
    )
    update orders o set check_at = clock.at + interval '5 minutes' * (0.75 + random() * 0.5)
    from frozen cross join clock
    where o.id = frozen.id`,
};

interface JudgedRow {
  readonly id: string;
  readonly answer: 'cancelled' | 'held' | 'not_due' | 'settled' | 'frozen' | 'closing' | 'asked';
  readonly remaining_ms: number;
}

/** What is found under the brake's bounds: `held` says that nothing was cancelled, the backlog must be weighed. */
type BoundedAnswer = ExpireAnswer | { readonly answer: 'held' };

/** The part of `Orders` that cancels for time. */
export interface Expiry {
  /**
   * Cancels those of the given orders that are pending and due, puts their stock back on sale and writes their event,
   * in one transaction for all of them.
   *
   * @param ids order ids; a repeated one counts once
   * @param actor who does it, for the event
   * @returns an answer for each id
   * @throws DatabaseUnavailable when nothing could be found out, or somebody holds one of the rows
   */
  expire(ids: readonly string[], actor: string): Promise<ReadonlyMap<string, ExpireAnswer>>;
  /**
   * Finds overdue pending orders without the queue and expires them, those that wait longest first.
   *
   * @param limit most orders in this round
   * @returns the answers by id; as many as `limit` means that there may be more
   * @throws DatabaseUnavailable when nothing could be found out
   */
  sweep(limit: number, actor: string): Promise<ReadonlyMap<string, ExpireAnswer>>;
}

/** Makes the expiry of one process; `limits` say when it holds by itself. */
export function createExpiry(database: Database, limits: BrakeLimits): Expiry {
  const brake = createBrake(database, limits);
  let putOffAt = 0;
  // A burst is swept many times a second; where nothing is frozen in part this reads no orders.
  const putFrozenOff = async (): Promise<void> => {
    if (performance.now() < putOffAt) return;
    putOffAt = performance.now() + putOffEveryMs;
    await transaction(database, async (tx) => {
      await Promise.all([shareFreezeLock(tx), tx.query(putOffFrozen)]);
    });
  };
  return {
    expire: (ids, actor) => expire(database, brake, ids, actor),
    sweep: (limit, actor) => sweep(database, brake, putFrozenOff, limit, actor),
  };
}

async function expire(
  database: Database,
  brake: Brake,
  ids: readonly string[],
  actor: string,
): Promise<ReadonlyMap<string, ExpireAnswer>> {
  const unique = [...new Set(ids)].filter((id) => uuid.test(id));
  const found = await underBrake(brake, actor, async (bounds) => {
    const answers = await commitInHalves<string, BoundedAnswer>(
      database,
      async (tx, some) => {
        const judged = await judge(tx, expireById, [some, actor, ...bounds]);
        return some.map((id) => judged.get(id) ?? { answer: 'unknown' });
      },
      unique,
    );
    const held = unique.filter((_, n) => answers[n] instanceof LockTimeout);
    if (held.length > 0) await postpone(database, held, heldPauseMs);
    return new Map(unique.map((id, n) => [id, orFailed(answers[n])]));
  });
  const failed = unique.filter((id) => found.get(id)?.answer === 'failed');
  if (failed.length > 0) await postpone(database, failed, failedPauseMs);
  return new Map<string, ExpireAnswer>([...ids.map((id) => [id, { answer: 'unknown' }] as const), ...found]);
}

async function sweep(
  database: Database,
  brake: Brake,
  putFrozenOff: () => Promise<void>,
  limit: number,
  actor: string,
): Promise<ReadonlyMap<string, ExpireAnswer>> {
  try {
    const found = await underBrake(brake, actor, (bounds) =>
      transaction(database, (tx) => judge(tx, sweepDue, [limit, actor, ...bounds])),
    );
    await putFrozenOff();
    // As under any freeze, a sweep does not tell of what stands still.
    return new Map([...found].filter(([, { answer }]) => answer !== 'frozen'));
  } catch (error) {
    if (!isDataError(error) && !(error instanceof LockTimeout)) throw error;
    // One row spoils the round: find it by halving, as for fired jobs, and put it off.
    const due = await queryable(database).query<{ id: string }>(readOverdue, [limit]);
    return expire(
      database,
      brake,
      due.map(({ id }) => id),
      actor,
    );
  }
}

/**
 * Judges; where that meets a suspicion of too much overdue, it has cancelled nothing and is over: the brake decides.
 * Holding, it makes `frozen` of `held`. Else the orders are judged again, without the suspicion.
 */
async function underBrake(
  brake: Brake,
  actor: string,
  work: (bounds: ReturnType<Brake['bounds']>) => Promise<ReadonlyMap<string, BoundedAnswer>>,
): Promise<ReadonlyMap<string, ExpireAnswer>> {
  const bounds = brake.bounds();
  const found = await work(bounds);
  const answers = [...found.values()];
  if (answers.some(({ answer }) => answer === 'cancelled' || answer === 'closing')) brake.looked(bounds);
  if (!answers.some(({ answer }) => answer === 'held')) return withoutHeld(found);
  return withoutHeld((await brake.hold(actor)) ? found : await work(brake.bounds()));
}

function withoutHeld(found: ReadonlyMap<string, BoundedAnswer>): Map<string, ExpireAnswer> {
  return new Map(
    [...found].map(([id, answer]) => [id, answer.answer === 'held' ? { answer: 'frozen' } : answer]),
  );
}

const readOverdue: Statement = {
  name: 'expire_read_overdue',
  text: `
    with clock as materialized (select clock_timestamp() as at)
    select o.id from orders o
    where ${isPending} and ${isOverdue}
    order by o.check_at
    limit $1`,
};

const postponeChecks: Statement = {
  name: 'expire_postpone',
  text: `
    with locked as (
      select id from orders where id = any ($1::uuid[]) order by id for no key update
    )
    update orders o set check_at = clock_timestamp() + $2 * interval '1 ms'
    from locked
    where o.id = locked.id and ${isPending}`,
};

/** Keeps orders that could not be cancelled from filling every round of the sweeper. */
async function postpone(database: Database, ids: readonly string[], pauseMs: number): Promise<void> {
  try {
    await transaction(database, (tx) => tx.query(postponeChecks, [ids, pauseMs]));
  } catch (error) {
    // The sweeper passes by what is locked itself.
    if (!(error instanceof LockTimeout)) throw error;
  }
}

async function judge(
  tx: Transaction,
  statement: Statement,
  values: readonly unknown[],
): Promise<Map<string, BoundedAnswer>> {
  const judging = Promise.all([shareFreezeLock(tx), tx.query<JudgedRow>(statement, values)]);
  tx.commit();
  const [, rows] = await judging;
  return new Map(rows.map((row) => [row.id, toAnswer(row)]));
}

function toAnswer({ answer, remaining_ms: remainingMs }: JudgedRow): BoundedAnswer {
  switch (answer) {
    case 'cancelled':
      // Subtracted: the negation of 0 is -0.
      return { answer, latenessMs: 0 - remainingMs };
    case 'not_due':
      return { answer, remainingMs };
    case 'held':
    case 'settled':
    case 'frozen':
      return { answer };
    case 'closing':
    case 'asked':
      return { answer: 'closing', isOurs: answer === 'closing' };
  }
}

function orFailed(answer: BatchAnswer<BoundedAnswer> | undefined): BoundedAnswer {
  if (answer === undefined) throw new Error('an order was left without an answer');
  // Somebody holds the row: nothing is wrong with the order, and what the others were answered is found again.
  if (answer instanceof LockTimeout) throw answer;
  return answer instanceof Error ? { answer: 'failed', error: answer } : answer;
}
