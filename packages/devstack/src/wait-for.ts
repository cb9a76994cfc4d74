import { setTimeout as sleep } from 'node:timers/promises';
import { DevstackError } from './errors.ts';

/** How long to wait, and for what. */
export interface WaitOptions {
  /** What is waited for, to end the sentence "waited in vain for …". */
  readonly what: string;
  /** Milliseconds; default 5,000. */
  readonly timeoutMs?: number;
}

type Falsy = false | 0 | '' | null | undefined;

/**
 * Asks `predicate` again and again, 5 ms apart at first and at most 100 ms, until its answer is truthy; returns that
 * answer. What the predicate throws is thrown at once.
 *
 * @throws DevstackError `not_ready`, naming `what`, when the time is over
 */
export async function waitFor<T>(
  predicate: () => T | Promise<T>,
  { what, timeoutMs = 5_000 }: WaitOptions,
): Promise<Exclude<T, Falsy>> {
  const giveUpAt = performance.now() + timeoutMs;
  for (let pauseMs = 5; ; pauseMs = Math.min(100, pauseMs * 1.5)) {
    const answer = await predicate();
    if (isTruthy(answer)) return answer;
    if (performance.now() >= giveUpAt) {
      throw new DevstackError('not_ready', `waited ${timeoutMs} ms in vain for ${what}`);
    }
    await sleep(pauseMs);
  }
}

function isTruthy<T>(answer: T): answer is Exclude<T, Falsy> {
  return Boolean(answer);
}
