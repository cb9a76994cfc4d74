/** First wait after a failure, ms. */
const firstMs = 250;

/** Longest wait, ms. */
const longestMs = 30_000;

/**
 * How long to wait while something fails again and again, kept per process: a slim job cannot count its own attempts,
 * and an outage concerns all jobs alike. The wait doubles once per wait, however many tries fail meanwhile, so that it
 * follows the length of the outage and not the number of jobs.
 */
export class Backoff {
  #waitMs = 0;
  #doublesAt = 0;

  /** Runs a try; answers with its result, or with its error and how long to wait. */
  async try<Result>(
    work: () => Promise<Result>,
  ): Promise<{ result: Result } | { error: unknown; waitMs: number }> {
    try {
      const result = await work();
      this.#waitMs = 0;
      this.#doublesAt = 0;
      return { result };
    } catch (error) {
      const now = performance.now();
      if (now >= this.#doublesAt) {
        this.#waitMs = Math.min(longestMs, Math.max(firstMs, 2 * this.#waitMs));
        this.#doublesAt = now + this.#waitMs;
      }
      return { error, waitMs: this.#waitMs };
    }
  }
}

/** Between half of it and all of it, at random, so that those who failed together do not come back together. */
export function jittered(waitMs: number): number {
  return waitMs * (0.5 + Math.random() / 2);
}
