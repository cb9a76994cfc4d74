import { setTimeout as delay } from 'node:timers/promises';

/** More work is under way than the background holds. */
class BackgroundFull extends Error {
  readonly code = 'background_full';

  constructor(maxPending: number) {
    super(`${maxPending} calls to Redis are under way already`);
    this.name = 'BackgroundFull';
  }
}

/** `deferred`: it was not done within the wait, and goes on. */
export type Outcome = 'done' | 'deferred' | 'failed';

/**
 * Work a caller waits for only a moment: a customer's checkout must not hang on Redis. What takes longer goes on by
 * itself; what would be too much is refused.
 */
export class Background {
  readonly #waitMs: number;
  readonly #maxPending: number;
  #pending = 0;
  readonly #pendingOf = new Map<number, number>();
  #closed = false;
  #onIdle: (() => void)[] = [];

  /**
   * @param options.waitMs how long a caller waits, ms
   * @param options.maxPending most work under way together; each partition that was seen has an equal part of it, so
   *   that one whose node is silent leaves the others theirs
   */
  constructor(options: { waitMs: number; maxPending: number }) {
    this.#waitMs = options.waitMs;
    this.#maxPending = options.maxPending;
  }

  /** Work that is under way. */
  get pendingCount(): number {
    return this.#pending;
  }

  /** Runs work of a partition; never rejects. `onFailed` hears why it failed, however late that is. */
  run(partition: number, work: () => Promise<void>, onFailed: (error: unknown) => void): Promise<Outcome> {
    const ofPartition = this.#pendingOf.get(partition) ?? 0;
    this.#pendingOf.set(partition, ofPartition);
    const share = Math.floor(this.#maxPending / this.#pendingOf.size);
    if (this.#closed || ofPartition >= share) {
      onFailed(this.#closed ? new Error('stopped') : new BackgroundFull(share));
      return Promise.resolve('failed');
    }
    this.#count(partition, 1);
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve('deferred'), this.#waitMs);
      const settle = (outcome: Outcome): void => {
        clearTimeout(timer);
        resolve(outcome);
        this.#count(partition, -1);
        if (this.#pending === 0) for (const onIdle of this.#onIdle.splice(0)) onIdle();
      };
      void work().then(
        () => settle('done'),
        (error: unknown) => {
          onFailed(error);
          settle('failed');
        },
      );
    });
  }

  /**
   * Refuses new work and waits for what is under way.
   *
   * @param maxMs how long, ms
   * @returns the number of those that are still under way
   */
  async close(maxMs: number): Promise<number> {
    this.#closed = true;
    if (this.#pending > 0) {
      const timeout = new AbortController();
      const idle = new Promise<void>((resolve) => this.#onIdle.push(resolve));
      const tooLong = delay(maxMs, undefined, { signal: timeout.signal }).catch(() => undefined);
      await Promise.race([idle, tooLong]);
      timeout.abort();
    }
    return this.#pending;
  }

  #count(partition: number, difference: 1 | -1): void {
    this.#pending += difference;
    this.#pendingOf.set(partition, (this.#pendingOf.get(partition) ?? 0) + difference);
  }
}
