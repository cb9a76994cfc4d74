/** What a batch ran into for one request; an `Error` rejects that request's caller alone. */
export type BatchAnswer<Answer> = Answer | Error;

export interface BatcherOptions<Request, Answer> {
  /** Handles a batch; answers in the order of the requests. A rejection rejects every caller of the batch. */
  readonly run: (requests: readonly Request[]) => Promise<readonly BatchAnswer<Answer>[]>;
  /** Most requests in one batch. */
  readonly maxSize: number;
  /** Batches under way at the same time. Default 1. */
  readonly maxConcurrent?: number;
  /** How long a batch may wait for company, ms. Default 0: a lone request goes at once. */
  readonly lingerMs?: number;
  /**
   * How long a batch may wait until it is as large as the last one was, ms. Under load those who were answered together
   * come back one after the other: without this the first of them goes alone, and all others wait until it is done. A lone
   * request after a lone one goes at once. Default 0.
   */
  readonly companyMs?: number;
  /** Most requests that may wait; one more is refused with BatcherFull. Default: no bound. */
  readonly maxWaiting?: number;
}

/** More requests wait than the batcher was told to hold. */
export class BatcherFull extends Error {
  readonly code = 'batcher_full';

  constructor(maxWaiting: number) {
    super(`${maxWaiting} requests are waiting already`);
    this.name = 'BatcherFull';
  }
}

interface Waiting<Request, Answer> {
  readonly request: Request;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Gathers concurrent requests into batches. Without a linger there is no fixed wait: a request that finds a free
 * slot goes with the current turn of the event loop, and under load whatever gathered while the last batch ran goes
 * together.
 */
export class Batcher<Request, Answer> {
  readonly #options: BatcherOptions<Request, Answer>;
  readonly #maxConcurrent: number;
  #waiting: Waiting<Request, Answer>[] = [];
  #running = 0;
  #lastSize = 0;
  #timer: NodeJS.Timeout | undefined;
  #scheduled = false;
  #onIdle: (() => void)[] = [];

  constructor(options: BatcherOptions<Request, Answer>) {
    this.#options = options;
    this.#maxConcurrent = options.maxConcurrent ?? 1;
  }

  /** Requests that wait for a batch. */
  get waitingCount(): number {
    return this.#waiting.length;
  }

  /**
   * Adds a request to the next batch.
   *
   * @throws BatcherFull when `maxWaiting` requests wait already; and what `run` threw or answered
   */
  submit(request: Request): Promise<Answer> {
    const { maxWaiting } = this.#options;
    if (maxWaiting !== undefined && this.#waiting.length >= maxWaiting) {
      return Promise.reject(new BatcherFull(maxWaiting));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ request, resolve, reject });
      this.#schedule();
    });
  }

  /** Resolves when nothing waits and nothing runs. */
  idle(): Promise<void> {
    if (this.#waiting.length === 0 && this.#running === 0) return Promise.resolve();
    return new Promise((resolve) => this.#onIdle.push(resolve));
  }

  #schedule(): void {
    const { lingerMs = 0, companyMs = 0, maxSize } = this.#options;
    const waitMs = this.#waiting.length < this.#lastSize ? Math.max(lingerMs, companyMs) : lingerMs;
    if (this.#waiting.length >= maxSize) {
      this.#flush();
    } else if (waitMs > 0) {
      this.#timer ??= setTimeout(() => this.#flush(), waitMs);
    } else if (!this.#scheduled) {
      this.#scheduled = true;
      queueMicrotask(() => this.#flush());
    }
  }

  #flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#scheduled = false;
    while (this.#waiting.length > 0 && this.#running < this.#maxConcurrent) {
      void this.#run(this.#waiting.splice(0, this.#options.maxSize));
    }
  }

  async #run(batch: readonly Waiting<Request, Answer>[]): Promise<void> {
    this.#running += 1;
    this.#lastSize = batch.length;
    try {
      const answers = await this.#options.run(batch.map(({ request }) => request));
      batch.forEach(({ resolve, reject }, index) => {
        const answer = answers[index];
        if (answer === undefined) reject(new Error('the batch gave no answer for this request'));
        else if (answer instanceof Error) reject(answer);
        else resolve(answer);
      });
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
    this.#running -= 1;
    const { companyMs = 0 } = this.#options;
    if (this.#waiting.length > 0 && companyMs > 0) this.#schedule();
    else if (this.#waiting.length > 0) this.#flush();
    else if (this.#running === 0) for (const resolve of this.#onIdle.splice(0)) resolve();
  }
}
