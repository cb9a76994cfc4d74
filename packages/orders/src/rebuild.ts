import { queryable, transaction, type Database, type Queryable, type Statement } from '@lapse/runtime';
import { v7 as uuidv7 } from 'uuid';
import { readPendingPage, type PendingDeadline } from './pending.ts';

/** Only one process at a time does a step. */
const rebuildLock = 73_284;

/** Arming every pending deadline again, because Redis lost them or somebody wishes it. */
export interface Rebuild {
  readonly id: string;
  readonly reason: string;
  readonly actor: string;
  /** The partitions whose deadlines are armed; null: all. */
  readonly partitions: readonly number[] | null;
  readonly armedCount: number;
  readonly startedAt: Date;
  readonly doneAt: Date | null;
}

const rebuildColumns = `
  r.id, r.reason, r.actor, r.partitions, r.armed_count as "armedCount", r.started_at as "startedAt",
  r.done_at as "doneAt"`;

const insertRebuild: Statement = {
  name: 'rebuild_request',
  text: `
    insert into rebuilds as r (id, reason, actor, partitions, started_at)
    values ($1, $2, $3, $4, date_trunc('milliseconds', clock_timestamp()))
    on conflict ((true)) where done_at is null do nothing
    returning ${rebuildColumns}`,
};

/**
 * Asks for a rebuild; the workers do it.
 *
 * @param request.partitions null: all
 * @returns undefined where one is under way already
 */
export async function requestRebuild(
  database: Database,
  request: { reason: string; actor: string; partitions: readonly number[] | null },
): Promise<Rebuild | undefined> {
  const { reason, actor, partitions } = request;
  const [row] = await queryable(database).query<Rebuild>(insertRebuild, [
    uuidv7(),
    reason,
    actor,
    partitions,
  ]);
  return row;
}

const readRebuild: Statement = {
  name: 'rebuild_read',
  text: `select ${rebuildColumns} from rebuilds r where r.id = $1`,
};

/** How far a rebuild is. */
export async function findRebuild(db: Queryable, id: string): Promise<Rebuild | undefined> {
  const [row] = await db.query<Rebuild>(readRebuild, [id]);
  return row;
}

const tryLock: Statement = {
  name: 'rebuild_lock',
  text: `select pg_try_advisory_xact_lock(${rebuildLock}) as taken`,
};

const readUnderWay: Statement = {
  name: 'rebuild_under_way',
  text: `
    select ${rebuildColumns}, r.cursor_check_at as "cursorCheckAt", r.cursor_id as "cursorId"
    from rebuilds r
    where r.done_at is null`,
};

interface RebuildRow extends Rebuild {
  readonly cursorCheckAt: Date | null;
  readonly cursorId: string | null;
}

const saveProgress: Statement = {
  name: 'rebuild_save',
  text: `
    update rebuilds set
      armed_count = case when $2::boolean then 0 else armed_count end + $3::bigint,
      cursor_check_at = coalesce($4::timestamptz, cursor_check_at),
      cursor_id = coalesce($5::uuid, cursor_id),
      done_at = case when $6::boolean then date_trunc('milliseconds', clock_timestamp()) end
    where id = $1
    returning armed_count as "armedCount"`,
};

/** What a step did. */
export type RebuildStep =
  | { readonly state: 'idle' }
  | { readonly state: 'armed'; readonly rebuild: Rebuild }
  | { readonly state: 'done'; readonly rebuild: Rebuild };

/** What a rebuild needs of the timer. What it throws undoes the step; the next one tries the same page again. */
export interface RebuildPorts {
  /** Whether Redis still has everything that this rebuild armed so far. Called before each page. */
  readonly isWhole: (rebuild: Rebuild) => Promise<boolean>;
  /** Marks the beginning, so that a later loss is noticed. */
  readonly begin: (rebuild: Rebuild) => Promise<void>;
  /** Answers how many it armed: those it leaves out for now are not counted. */
  readonly arm: (deadlines: readonly PendingDeadline[]) => Promise<number>;
}

/**
 * Does the next step of the rebuild that is under way: arms up to `limit` deadlines. Where Redis lost what was armed
 * meanwhile, it begins again. One process at a time does it; for the others there is nothing to do.
 */
export function rebuildStep(database: Database, limit: number, ports: RebuildPorts): Promise<RebuildStep> {
  return transaction(database, async (tx): Promise<RebuildStep> => {
    // Sent together, run in this order: what is read is as the one before left it.
    const [[lock], [row]] = await Promise.all([
      tx.query<{ taken: boolean }>(tryLock),
      tx.query<RebuildRow>(readUnderWay),
    ]);
    if (lock?.taken !== true || row === undefined) return { state: 'idle' };
    const { cursorCheckAt, cursorId, ...rebuild } = row;
    const hasBegun = cursorCheckAt !== null && cursorId !== null;
    const goesOn = hasBegun && (await ports.isWhole(rebuild));
    if (!goesOn) await ports.begin(rebuild);

    const after = goesOn ? { checkAt: cursorCheckAt, orderId: cursorId } : null;
    const page = await readPendingPage(tx, { after, limit, partitions: rebuild.partitions });
    const pageArmedCount = await ports.arm(page.deadlines);
    const isDone = page.next === null;
    const saving = tx.query<{ armedCount: number }>(saveProgress, [
      rebuild.id,
      !goesOn,
      pageArmedCount,
      page.next?.checkAt ?? null,
      page.next?.orderId ?? null,
      isDone,
    ]);
    tx.commit();
    const [saved] = await saving;
    const armedCount = saved?.armedCount ?? 0;
    return { state: isDone ? 'done' : 'armed', rebuild: { ...rebuild, armedCount } };
  });
}
