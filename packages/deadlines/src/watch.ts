/** How a watched worker is judged. */
export interface WatchLimits {
  /** Looks in a row without a sign of life after which a worker is replaced. */
  readonly silentLooks: number;
  /** Looks in a row that a worker may be full without fetching: from then on that is no sign of life. */
  readonly fullLooks: number;
  /** Replacements in a row that changed nothing after which the process gives up. */
  readonly maxReplacements: number;
}

/** What is seen of a worker at one look. */
export interface Look {
  /** Answers of Redis to its fetches, in all, with a job or without one. */
  readonly fetchCount: number;
  /** Jobs it fetched, in all. */
  readonly jobCount: number;
  /** Whether it has as many jobs in hand as it may: it need not fetch now. */
  readonly isFull: boolean;
  /** When the canary that is in the partition was armed; null where there is none. */
  readonly canary: string | null;
}

/**
 * `silent`: no sign of life since the last look, which is no reason yet. `no_fetch`: it does not fetch. `no_canary`:
 * it fetches and gets nothing, though a canary is there.
 */
export type Verdict =
  | { readonly verdict: 'well' }
  | { readonly verdict: 'silent' }
  | { readonly verdict: 'replace' | 'give_up'; readonly reason: 'no_fetch' | 'no_canary' };

/**
 * Judges the worker of one partition by what is seen of it. It counts looks, not time: a process that was stopped for a
 * while, or a Redis that was away, is no fault of the worker.
 */
export class Watch {
  readonly #limits: WatchLimits;
  #last: Look | undefined;
  /** As of the last sign of life. */
  #fetchCount = 0;
  #silentLooks = 0;
  #looks = 0;
  #replacements = 0;
  #canaryLooks = 0;
  #fullLooks = 0;

  constructor(limits: WatchLimits) {
    this.#limits = limits;
  }

  /** Replacements in a row, so far. */
  get replacements(): number {
    return this.#replacements;
  }

  /** Whether the last look was the one at which the canary became missing. */
  get hasMissedCanary(): boolean {
    return this.#canaryLooks === this.#limits.silentLooks;
  }

  /** Judges by one more look. */
  judge(look: Look): Verdict {
    const last = this.#last;
    this.#last = look;
    if (last === undefined) {
      this.#fetchCount = look.fetchCount;
      return { verdict: 'well' };
    }
    this.#looks += 1;
    const canaryStays = look.canary !== null && look.canary === last.canary;
    this.#canaryLooks = canaryStays ? this.#canaryLooks + 1 : 0;
    // Behind a long backlog a canary is late, and no worker is to blame that fetches other jobs.
    const hasFetchedJob = look.jobCount > last.jobCount;
    // With all hands full it need not fetch. Jobs that never end would keep it so for ever.
    this.#fullLooks = look.isFull && !hasFetchedJob ? this.#fullLooks + 1 : 0;
    const hasWork = hasFetchedJob || (look.isFull && this.#fullLooks <= this.#limits.fullLooks);
    if (hasWork || (look.fetchCount > last.fetchCount && !canaryStays)) {
      this.#silentLooks = 0;
      this.#fetchCount = look.fetchCount;
      // A worker that wedges may still fetch once when it is new.
      if (this.#looks > this.#limits.silentLooks) this.#replacements = 0;
      return { verdict: 'well' };
    }
    this.#silentLooks += 1;
    if (this.#silentLooks < this.#limits.silentLooks) return { verdict: 'silent' };
    return {
      verdict: this.#replacements >= this.#limits.maxReplacements ? 'give_up' : 'replace',
      reason: look.fetchCount === this.#fetchCount ? 'no_fetch' : 'no_canary',
    };
  }

  /** Nothing can be said now: Redis does not answer. Begins anew, with the replacements so far. */
  excuse(): void {
    this.#last = undefined;
    this.#silentLooks = 0;
    this.#canaryLooks = 0;
    this.#fullLooks = 0;
  }

  /** Another worker took its place. */
  replaced(): void {
    this.excuse();
    this.#looks = 0;
    this.#replacements += 1;
  }
}
