import {
  Batcher,
  DatabaseUnavailable,
  sqlState,
  transaction,
  type BatchAnswer,
  type Database,
  type Queryable,
} from '@lapse/runtime';

/** Requests that may wait for a commit; more than these are told that the service is unavailable. */
const maxWaiting = 10_000;

/**
 * Handles a batch inside one transaction, answering in the order of the requests.
 *
 * @param retry whether an earlier try may have committed: then the work first looks for what it would write
 */
export type CommitBatch<Request, Answer> = (
  tx: Queryable,
  requests: readonly Request[],
  retry: boolean,
) => Promise<readonly BatchAnswer<Answer>[]>;

/**
 * Commits concurrent requests together: one transaction, one flush of the log, a few round trips for all of them.
 * A lone request goes at once; under load whatever gathered while the last batch ran goes together.
 *
 * - A data error is the error of the request that caused it, the others go through.
 * - A connection that is lost may have been lost in COMMIT: the batch is tried once more, as a whole, told so.
 */
export function groupCommit<Request, Answer>(options: {
  database: Database;
  commit: CommitBatch<Request, Answer>;
  maxSize: number;
  maxConcurrent: number;
}): Batcher<Request, Answer> {
  const { database, commit, maxSize, maxConcurrent } = options;
  return new Batcher({
    maxSize,
    maxConcurrent,
    maxWaiting,
    async run(requests) {
      try {
        return await commitInHalves(database, commit, requests, false);
      } catch (error) {
        if (!(error instanceof DatabaseUnavailable)) throw error;
        return commitInHalves(database, commit, requests, true);
      }
    },
  });
}

/**
 * Commits a batch; where a data error refuses it, commits its halves, until the culprit stands alone and the error is
 * its own. Halving costs 2 log₂ n transactions for one bad request among n, one by one would cost n.
 *
 * @throws whatever is not a data error, for the whole batch
 */
export async function commitInHalves<Request, Answer>(
  database: Database,
  commit: CommitBatch<Request, Answer>,
  requests: readonly Request[],
  retry: boolean,
): Promise<readonly BatchAnswer<Answer>[]> {
  try {
    return await transaction(database, (tx) => commit(tx, requests, retry));
  } catch (error) {
    if (!(error instanceof Error) || !isDataError(error)) throw error;
    // Somebody else was first to write the same row. It can be seen now, and answered.
    if (sqlState(error) === uniqueViolation && !retry)
      return commitInHalves(database, commit, requests, true);
    if (requests.length === 1) return [error];
    const middle = Math.ceil(requests.length / 2);
    // In order and not at once: who came first has the first claim to the stock.
    const first = await commitInHalves(database, commit, requests.slice(0, middle), true);
    const second = await commitInHalves(database, commit, requests.slice(middle), true);
    return [...first, ...second];
  }
}

const uniqueViolation = '23505';

/** Data exceptions, integrity violations and rollbacks: errors that a statement brings on itself. */
export function isDataError(error: unknown): boolean {
  return ['22', '23', '40'].includes(sqlState(error)?.slice(0, 2) ?? '');
}
