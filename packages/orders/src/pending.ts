import type { Queryable, Statement } from '@lapse/runtime';

/** A deadline as the timer wants it. */
export interface PendingDeadline {
  readonly orderId: string;
  readonly partition: number;
  readonly createdAt: Date;
  readonly expireAt: Date;
}

/** A place in the pending orders, sorted by check_at and id: behind this order. */
export interface PendingCursor {
  readonly checkAt: Date;
  readonly orderId: string;
}

/** Some orders whose time is still to come, or was missed, and where the next page begins; null behind the last one. */
export interface PendingPage {
  readonly deadlines: readonly PendingDeadline[];
  readonly next: PendingCursor | null;
}

const readPage: Statement = {
  name: 'pending_page',
  text: `
    select id as "orderId", partition, created_at as "createdAt", expire_at as "expireAt", check_at as "checkAt"
    from orders
    where status = 'pending_payment' and (check_at, id) > ($1::timestamptz, $2::uuid)
      -- Neither those that wait for ever nor those that wait for their providers: no job would help them.
      and check_at < 'infinity' and closing_at is null
      and ($3::smallint[] is null or partition = any ($3))
    order by check_at, id
    limit $4`,
};

const theFirst: PendingCursor = { checkAt: new Date(0), orderId: '00000000-0000-0000-0000-000000000000' };

/**
 * Reads the pending orders that want a job page by page, those that are due first. An order that is extended meanwhile may be seen twice.
 *
 * @param page.after where to begin; null: at the first
 * @param page.partitions which partitions; null: all
 */
export async function readPendingPage(
  db: Queryable,
  page: { after: PendingCursor | null; limit: number; partitions: readonly number[] | null },
): Promise<PendingPage> {
  const { checkAt, orderId } = page.after ?? theFirst;
  const rows = await db.query<PendingDeadline & { readonly checkAt: Date }>(readPage, [
    checkAt,
    orderId,
    page.partitions,
    page.limit,
  ]);
  const last = rows.length === page.limit ? rows.at(-1) : undefined;
  return {
    deadlines: rows.map(({ checkAt: _, ...deadline }) => deadline),
    next: last === undefined ? null : { checkAt: last.checkAt, orderId: last.orderId },
  };
}

const readPendingAmong: Statement = {
  name: 'pending_among',
  text: `select id from orders where id = any ($1::uuid[]) and status = 'pending_payment'`,
};

/** Which of these orders are pending. */
export async function pendingAmong(db: Queryable, ids: readonly string[]): Promise<ReadonlySet<string>> {
  const rows = await db.query<{ id: string }>(readPendingAmong, [ids]);
  return new Set(rows.map(({ id }) => id));
}
