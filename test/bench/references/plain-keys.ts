import type { IdempotencyKey, Order } from '@lapse/orders';
import type { Queryable, Statement } from '@lapse/runtime';

/** The answer that is kept with a key. */
export interface Kept {
  readonly orderId: string;
  readonly paymentId: string | null;
  readonly outcome: string;
}

const insertKey: Statement = {
  name: 'plain_insert_key',
  // A twin waits here until the first one is committed.
  text: `
    insert into idempotency_keys as kept (scope, key, body_hash, order_id, payment_id, outcome, created_at)
    values ($1, $2, $3, $4, $5, $6, clock_timestamp())
    on conflict (scope, key) do update set
      body_hash = excluded.body_hash, order_id = excluded.order_id, payment_id = excluded.payment_id,
      outcome = excluded.outcome, created_at = excluded.created_at
    where kept.created_at <= clock_timestamp() - interval '24 hours'
    returning kept.order_id`,
};

/** Keeps an answer with its key; false where the key has one already. Without a key there is nothing to keep. */
export async function claimKey(
  tx: Queryable,
  idempotency: IdempotencyKey | undefined,
  { orderId, paymentId, outcome }: Kept,
): Promise<boolean> {
  if (idempotency === undefined) return true;
  const { scope, key, bodyHash } = idempotency;
  const rows = await tx.query(insertKey, [scope, key, bodyHash, orderId, paymentId, outcome]);
  return rows.length === 1;
}

const selectKey: Statement = {
  name: 'plain_select_key',
  text: `
    select body_hash as "bodyHash", order_id as "orderId", payment_id as "paymentId", outcome
    from idempotency_keys where scope = $1 and key = $2`,
};

/** The answer that was kept for the same request; `reused` where the request was another one. */
export async function readKept(tx: Queryable, idempotency: IdempotencyKey): Promise<Kept | 'reused'> {
  const [kept] = await tx.query<Kept & { bodyHash: Buffer }>(selectKey, [idempotency.scope, idempotency.key]);
  if (kept === undefined) throw new Error('a taken key is not there');
  return kept.bodyHash.equals(idempotency.bodyHash) ? kept : 'reused';
}

const orderFields = `
  id, partition, reference, channel, payment_method as "paymentMethod", status, cancel_reason as "cancelReason",
  currency, amount, items, metadata, created_at as "createdAt", deadline_at as "deadlineAt",
  case status when 'pending_payment'
    then greatest(0, ceil(extract(epoch from deadline_at - clock_timestamp()) * 1000))::bigint else 0::bigint
  end as "remainingMs",
  paid_at as "paidAt", cancelled_at as "cancelledAt", expire_at as "expireAt", null as "remindAt"`;

const selectOrder: Statement = {
  name: 'plain_select_order',
  text: `select ${orderFields} from orders where id = $1`,
};

/** Reads an order that is known to exist. */
export async function readOrder(tx: Queryable, id: string): Promise<Order> {
  const [order] = await tx.query<Order>(selectOrder, [id]);
  if (order === undefined) throw new Error(`there is no order ${id}`);
  return order;
}

const selectOrderForUpdate: Statement = {
  name: 'plain_lock_order',
  text: `select ${orderFields} from orders where id = $1 for no key update`,
};

/** Reads an order under its lock. */
export async function lockOrder(tx: Queryable, id: string): Promise<Order | undefined> {
  return (await tx.query<Order>(selectOrderForUpdate, [id]))[0];
}
