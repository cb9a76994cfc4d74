import { Worker } from 'node:worker_threads';

/** A POST of a load. */
export interface HttpRequest {
  readonly path: string;
  readonly body: string;
  readonly headers: Record<string, string>;
}

/** Requests, and how they are sent. */
export interface HttpLoad {
  readonly url: string;
  /** Each sends its next request when the last one is answered. */
  readonly connections: number;
  /** How long, unless the requests run out before. */
  readonly seconds: number;
  /** Headers of every request. */
  readonly headers: Record<string, string>;
  /** Each is sent once at most. */
  readonly requests: readonly HttpRequest[];
}

/** What the thread measured. */
export interface LoadResult {
  /** Answers with a 2xx. */
  readonly answeredCount: number;
  /** What each of them took, ms, sorted; without the first of each connection. */
  readonly tookMs: Float64Array;
  /** Answers with a 2xx within the time. */
  readonly perSecond: number;
  /** How often each other answer, and each lost connection, was met. */
  readonly failures: Readonly<Record<string, number>>;
}

/** What a load was answered. */
export interface Answered {
  /** Answers with a 2xx; no request was cut off, so the service carried out exactly these. */
  readonly answeredCount: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/**
 * Sends requests with autocannon, in a thread of its own.
 *
 * @throws Error where one was not answered with a 2xx, or none in time: a figure of failed requests would be worth
 * nothing
 */
export async function sendLoad(load: HttpLoad): Promise<Answered> {
  const worker = new Worker(new URL('http-load-thread.ts', import.meta.url), { workerData: load });
  const { answeredCount, tookMs, perSecond, failures } = await new Promise<LoadResult>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', () => reject(new Error('the load ended without a result')));
  });
  await worker.terminate();
  const met = Object.entries(failures).map(([failure, count]) => `${count} × ${failure}`);
  if (met.length > 0) throw new Error(`requests failed: ${met.slice(0, 5).join('; ')}`);
  if (tookMs.length === 0) throw new Error('no request was answered in time');
  const at = (share: number): number => tookMs[Math.floor((tookMs.length - 1) * share)] ?? NaN;
  return { answeredCount, perSecond, p50Ms: at(0.5), p99Ms: at(0.99) };
}
