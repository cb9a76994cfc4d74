/** What a limiter lets through. */
export interface Limits {
  /** Starts, on average. A tenth of it may start at once. */
  readonly perSecond: number;
  /** Under way at the same time. */
  readonly concurrency: number;
  /** Who would have to wait longer is turned away, ms. */
  readonly maxWaitMs: number;
}

/** Lets work through so fast, and so much at a time. Nobody waits in vain: who cannot get through in time goes at once. */
export class Limiter {
  readonly #limits: Limits;
  readonly #waiting = new Set<(gotSlot: boolean) => void>();
  #freeSlots: number;
  /** When the bucket of starts is full again. */
  #fullAt = 0;

  constructor(limits: Limits) {
    this.#limits = limits;
    this.#freeSlots = limits.concurrency;
  }

  /** Runs work when there is room for it; undefined: there was none in time. */
  async run<Result>(work: () => Promise<Result>): Promise<{ readonly result: Result } | undefined> {
    const giveUpAt = performance.now() + this.#limits.maxWaitMs;
    if (!(await this.#takeSlot())) return undefined;
    try {
      const waitMs = this.#takeStart(giveUpAt);
      if (waitMs === undefined) return undefined;
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
      return { result: await work() };
    } finally {
      this.#returnSlot();
    }
  }

  /** Waits for a slot, in order; false: none was returned in time. */
  #takeSlot(): Promise<boolean> {
    if (this.#freeSlots > 0) {
      this.#freeSlots -= 1;
      return Promise.resolve(true);
    }
    return new Promise((resolve) => {
      const answer = (gotSlot: boolean): void => {
        clearTimeout(timer);
        this.#waiting.delete(answer);
        resolve(gotSlot);
      };
      const timer = setTimeout(() => answer(false), this.#limits.maxWaitMs);
      this.#waiting.add(answer);
    });
  }

  #returnSlot(): void {
    const [next] = this.#waiting;
    if (next === undefined) this.#freeSlots += 1;
    else next(true);
  }

  /** Takes a start from the bucket; answers how long to wait for it, or undefined where that is too long. */
  #takeStart(giveUpAt: number): number | undefined {
    const { perSecond } = this.#limits;
    const everyMs = 1000 / perSecond;
    const bucketMs = everyMs * Math.max(1, perSecond / 10);
    const now = performance.now();
    const fullAt = Math.max(now, this.#fullAt) + everyMs;
    const waitMs = Math.max(0, fullAt - bucketMs - now);
    if (now + waitMs > giveUpAt) return undefined;
    this.#fullAt = fullAt;
    return waitMs;
  }
}
