import { setTimeout as delay } from 'node:timers/promises';
import type { Queryable, Statement } from '@lapse/runtime';

/** A client's promise that two requests are the same one. Kept for 24 hours. */
export interface IdempotencyKey {
  /** Whose key it is, and for which route. */
  readonly scope: string;
  readonly key: string;
  /** SHA-256 of the body. */
  readonly bodyHash: Buffer;
}

/** What an earlier request with the same key and body was answered. */
export interface KeptAnswer {
  readonly orderId: string;
  readonly paymentId: string | null;
  readonly outcome: string;
}

/** How a request stands to the key it brought. */
export type Claim =
  | { readonly claim: 'fresh' }
  | { readonly claim: 'replay'; readonly answer: KeptAnswer }
  | { readonly claim: 'reused' }
  | { readonly claim: 'in_progress' };

const fresh: Claim = { claim: 'fresh' };
const inProgress: Claim = { claim: 'in_progress' };

/** SQL: locks the key `wanted`. Never waits: a twin that hangs in another process must not hold up everybody in the batch. */
const tryLock = 'pg_try_advisory_xact_lock(hashtextextended(wanted.scope || chr(31) || wanted.key, 0))';

/** SQL: the keys of the last 24 hours, `kept`, among those of two arrays. */
const keptAmong = (scopes: string, keys: string): string => `
    unnest(${scopes}::text[], ${keys}::text[]) as wanted (scope, key)
    cross join lateral (
      -- One by one, see readOrders in find.ts.
      select * from idempotency_keys kept where kept.scope = wanted.scope and kept.key = wanted.key limit 1
    ) as kept
    where kept.created_at > clock_timestamp() - interval '24 hours'`;

const tryLockKeys: Statement = {
  name: 'try_lock_idempotency_keys',
  text: `
    select ${tryLock} as locked
    from unnest($1::text[], $2::text[]) with ordinality as wanted (scope, key, n)
    order by wanted.n`,
};

const readKeys: Statement = {
  name: 'read_idempotency_keys',
  text: `
    select kept.scope, kept.key, kept.body_hash, kept.order_id, kept.payment_id, kept.outcome
    from ${keptAmong('$1', '$2')}`,
};

interface KeyRow {
  readonly scope: string;
  readonly key: string;
  readonly body_hash: Buffer;
  readonly order_id: string;
  readonly payment_id: string | null;
  readonly outcome: string;
}

/**
 * Claims the keys of a batch until the transaction ends. Of twins in one batch the first may go; the others, like
 * those whose twin runs elsewhere, are `in_progress` and ask again. Requests without a key are fresh.
 */
export async function claimKeys(
  tx: Queryable,
  requests: readonly { readonly idempotency?: IdempotencyKey | undefined }[],
): Promise<readonly Claim[]> {
  const leaders = new Map<string, IdempotencyKey>();
  const leads = requests.map(({ idempotency }) => {
    if (idempotency === undefined || leaders.has(identity(idempotency))) return false;
    leaders.set(identity(idempotency), idempotency);
    return true;
  });
  if (leaders.size === 0) return requests.map(() => fresh);

  const scopes = Array.from(leaders.values(), ({ scope }) => scope);
  const keys = Array.from(leaders.values(), ({ key }) => key);
  // Sent together, run in this order: what the second one reads was committed before the lock was had.
  const [locks, rows] = await Promise.all([
    tx.query<{ locked: boolean }>(tryLockKeys, [scopes, keys]),
    tx.query<KeyRow>(readKeys, [scopes, keys]),
  ]);
  const locked = new Map(Array.from(leaders.keys(), (id, n) => [id, locks[n]?.locked === true] as const));
  const kept = new Map(rows.map((row) => [identity(row), row] as const));

  return requests.map(({ idempotency }, n): Claim => {
    if (idempotency === undefined) return fresh;
    const row = kept.get(identity(idempotency));
    if (row !== undefined) return settle(row, idempotency);
    return leads[n] === true && locked.get(identity(idempotency)) === true ? fresh : inProgress;
  });
}

/**
 * Claims all keys of a batch, or not quite all. For a statement that follows in the same transaction without a wait for
 * the answer: that one asks `areKeysClaimed`.
 */
export const claimAllKeys: Statement = {
  name: 'claim_all_idempotency_keys',
  text: `
    select set_config('lapse.keys_are_claimed', coalesce(bool_and(${tryLock}), true)::text, true)
    from unnest($1::text[], $2::text[]) as wanted (scope, key)`,
};

/**
 * SQL: the keys are claimed by `claimAllKeys`, and none was used in the last 24 hours. It must be a statement of its own:
 * what it reads was committed before the claims were had.
 */
export const areKeysClaimed = (scopes: string, keys: string): string => `
current_setting('lapse.keys_are_claimed')::boolean
        and not exists (select from ${keptAmong(scopes, keys)})`;

/** Those whose twin is not running: nothing is locked for the others, the twin may hold it. */
export function withoutTwins<Request>(requests: readonly Request[], claims: readonly Claim[]): Request[] {
  return requests.filter((_, n) => claims[n]?.claim !== 'in_progress');
}

function settle(row: KeyRow, { bodyHash }: IdempotencyKey): Claim {
  if (!row.body_hash.equals(bodyHash)) return { claim: 'reused' };
  return {
    claim: 'replay',
    answer: { orderId: row.order_id, paymentId: row.payment_id, outcome: row.outcome },
  };
}

/** Tells keys apart. */
export function identity({ scope, key }: { readonly scope: string; readonly key: string }): string {
  return `${scope}\u001F${key}`;
}

/** A key and the answer to keep with it, as `keepKeys` reads them from JSON. */
export interface KeptKey extends KeptAnswer {
  readonly scope: string;
  readonly key: string;
  /** Hexadecimal. */
  readonly bodyHash: string;
}

/** Pairs a key with the answer to keep. */
export function keep(idempotency: IdempotencyKey, answer: KeptAnswer): KeptKey {
  const { scope, key, bodyHash } = idempotency;
  return { scope, key, bodyHash: bodyHash.toString('hex'), ...answer };
}

/**
 * A CTE that keeps keys with their answers, for the statement that makes the answer true. It needs a CTE `clock`.
 *
 * @param parameter the statement's parameter that holds the KeptKeys as JSON, for example `$3`
 */
export const keepKeys = (parameter: string): string => `
  kept as (
    insert into idempotency_keys (scope, key, body_hash, order_id, payment_id, outcome, created_at)
    select k.scope, k.key, decode(k."bodyHash", 'hex'), k."orderId", k."paymentId", k.outcome, clock.at
    from jsonb_to_recordset(${parameter}::jsonb)
      as k (scope text, key text, "bodyHash" text, "orderId" uuid, "paymentId" uuid, outcome text)
    cross join clock
    order by k.scope, k.key
    -- Only a key older than 24 h can be met here: the claim found no younger one and locked it.
    on conflict (scope, key) do update set
      body_hash = excluded.body_hash, order_id = excluded.order_id, payment_id = excluded.payment_id,
      outcome = excluded.outcome, created_at = excluded.created_at
  )`;

/** How long a request waits for its twin, and between two looks, ms. */
const twinPatienceMs = 2000;
const twinPauseMs = 10;

/**
 * Asks again while a twin is running, for up to 2 seconds.
 *
 * @param attempt one try; answers `in_progress` while the twin runs
 */
export async function awaitTwin<Answer extends { readonly outcome: string }>(
  attempt: () => Promise<Answer>,
): Promise<Answer> {
  const giveUpAt = performance.now() + twinPatienceMs;
  for (;;) {
    const answer = await attempt();
    if (answer.outcome !== 'idempotency_in_progress' || performance.now() > giveUpAt) return answer;
    await delay(twinPauseMs);
  }
}

const purge: Statement = {
  name: 'purge_idempotency_keys',
  text: `
    with old as (
      select ctid from idempotency_keys
      where ctid >= $1::tid and ctid < $2::tid and created_at <= clock_timestamp() - interval '24 hours'
      for update skip locked
    ), purged as (
      -- By their places: by their keys, the planner would read the whole table for a join.
      delete from idempotency_keys where ctid = any (array(select ctid from old)) returning 1
    )
    select
      (select count(*) from purged) as "purgedCount",
      pg_relation_size('idempotency_keys') / current_setting('block_size')::bigint as "blockCount"`,
};

/** Some blocks of the table of keys. */
export interface KeyBlocks {
  readonly from: number;
  readonly count: number;
}

/** What a purge did. */
export interface Purge {
  readonly purgedCount: number;
  /** Whether these were the last blocks. */
  readonly isAll: boolean;
}

/**
 * Removes the keys in some blocks of the table that are older than 24 hours. Nothing but a walk through the table finds
 * them: an index on created_at costs each key 0.6 µs and 65 bytes of WAL (18 %), on the way of every checkout, while a
 * block of 50 keys is read in 6 µs, once an hour. A BRIN costs nothing and finds nothing, see migration 0004.
 */
export async function purgeIdempotencyKeys(db: Queryable, { from, count }: KeyBlocks): Promise<Purge> {
  const [row] = await db.query<{ purgedCount: number; blockCount: number }>(purge, [
    `(${from},0)`,
    `(${from + count},0)`,
  ]);
  const { purgedCount = 0, blockCount = 0 } = row ?? {};
  return { purgedCount, isAll: from + count >= blockCount };
}
