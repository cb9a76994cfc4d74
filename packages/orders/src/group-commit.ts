import {
  Batcher,
  DatabaseUnavailable,
  LockTimeout,
  sqlState,
  transaction,
  type BatchAnswer,
  type Database,
  type Transaction,
} from '@lapse/runtime';

/** Requests that may wait for a commit; more than these are told that the service is unavailable. */
const maxWaiting = 10_000;

/** How long a batch waits to be as large as the last one, ms. With 128 clients it made checkouts 1.4 times as many. */
const companyMs = 3;

/**
 * Handles a batch inside one transaction, answering in the order of the requests.
 *
 * @param retry whether an earlier try may have committed: then the work first looks for what it would write. And it
 *   takes no lock for a request whose twin is running: the twin may be what the first try waited for
 */
export type CommitBatch<Request, Answer> = (
  tx: Transaction,
  requests: readonly Request[],
  retry: boolean,
) => Promise<readonly BatchAnswer<Answer>[]>;

/**
 * Commits concurrent requests together: one transaction, one flush of the log, a few round trips for all of them.
 * A lone request goes at once; under load whatever gathered while the last batch ran goes together, as soon as it is as
 * much as that one had, or a moment later.
 *
 * - A data error is the error of the request that caused it, the others go through. So is a row that somebody holds.
 * - A connection that is lost may have been lost in COMMIT: the batch is tried once more, as a whole, told so.
 */
export function groupCommit<Request, Answer>(options: {
  database: Database;
  /**
   * Tries the whole batch in one round trip, before `commit`: for a batch in which nothing is out of the ordinary. Undefined
   * where something is, and nothing was written.
   */
  commitAtOnce?: (requests: readonly Request[]) => Promise<readonly Answer[] | undefined>;
  commit: CommitBatch<Request, Answer>;
  maxSize: number;
  maxConcurrent: number;
}): Batcher<Request, Answer> {
  const { database, commitAtOnce, commit, maxSize, maxConcurrent } = options;
  return new Batcher({
    maxSize,
    maxConcurrent,
    maxWaiting,
    companyMs,
    async run(requests) {
      try {
        const all = await commitAtOnce?.(requests).catch(unlessCulpritsAreSought);
        return all ?? (await commitInHalves(database, commit, requests));
      } catch (error) {
        if (!(error instanceof DatabaseUnavailable)) throw error;
        return commitInHalves(database, commit, requests, { retry: true });
      }
    },
  });
}

/**
 * Commits a batch; where a data error refuses it, or a row that somebody holds, commits its halves, until the culprit
 * stands alone and the error is its own. Halving costs 2 log₂ n transactions for one bad request among n, one by one
 * would cost n. Halves wait for rows less long: one held row among 200 costs the others 2 s and eight times 250 ms. Where
 * many are held, those that are left after 2 s of that are not tried any more.
 *
 * @param options.retry as for the work. Default false
 * @param options.giveUpAt when, by the process's monotonic clock, held rows are looked for no more
 * @throws whatever is neither, for the whole batch
 */
export async function commitInHalves<Request, Answer>(
  database: Database,
  commit: CommitBatch<Request, Answer>,
  requests: readonly Request[],
  options: { readonly retry?: boolean; readonly lockTimeoutMs?: number; readonly giveUpAt?: number } = {},
): Promise<readonly BatchAnswer<Answer>[]> {
  const { retry = false, giveUpAt = Number.POSITIVE_INFINITY, ...wait } = options;
  try {
    return await transaction(database, (tx) => commit(tx, requests, retry), wait);
  } catch (error) {
    if (!(error instanceof Error && (isDataError(error) || error instanceof LockTimeout))) throw error;
    // Somebody else was first to write the same row. It can be seen now, and answered.
    if (sqlState(error) === uniqueViolation && !retry)
      return commitInHalves(database, commit, requests, { ...options, retry: true });
    // Alone once more: a retry takes care not to wait for a twin.
    const isCulprit = requests.length === 1 && (retry || !(error instanceof LockTimeout));
    if (isCulprit) return [error];
    if (error instanceof LockTimeout && performance.now() >= giveUpAt) return requests.map(() => error);
    const middle = Math.ceil(requests.length / 2);
    // After a data error a half waits as long as the whole did: nobody is known to hold anything.
    const half =
      error instanceof LockTimeout
        ? {
            retry: true,
            lockTimeoutMs: halfLockTimeoutMs,
            giveUpAt: Math.min(giveUpAt, performance.now() + halvingPatienceMs),
          }
        : { ...options, retry: true };
    // In order and not at once: who came first has the first claim to the stock.
    const first = await commitInHalves(database, commit, requests.slice(0, middle), half);
    const rest = requests.slice(middle);
    return rest.length === 0 ? first : [...first, ...(await commitInHalves(database, commit, rest, half))];
  }
}

/** @throws the error, unless halving finds whose it is */
function unlessCulpritsAreSought(error: unknown): undefined {
  if (!isDataError(error) && !(error instanceof LockTimeout)) throw error;
}

const uniqueViolation = '23505';

/** How long a half waits for a lock, ms. The whole batch has waited longer already. */
const halfLockTimeoutMs = 250;

/** How long held rows are looked for by halving, ms. */
const halvingPatienceMs = 2000;

/** Data exceptions, integrity violations, rollbacks and exceeded limits: errors that a statement brings on itself. */
export function isDataError(error: unknown): boolean {
  return ['22', '23', '40', '54'].includes(sqlState(error)?.slice(0, 2) ?? '');
}
