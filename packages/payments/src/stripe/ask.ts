import type { Log } from '@lapse/runtime';
import { Stripe } from 'stripe';

/** What a call came to: what Stripe answered, or why that is no use. */
export type Asked<Value> = { readonly value: Value } | { readonly failure: Failure };

/** Why a call was no use. */
export interface Failure {
  /** Stripe understood the call and will not do it. Otherwise nobody knows whether it was done. */
  readonly isRefusal: boolean;
  /** Stripe is well, it is this call that is unclear. */
  readonly isProviderWell: boolean;
  /** Stripe did not look again: it repeated what it had answered to the same key before. */
  readonly isRepeated: boolean;
  /** Stripe's, where it gave one. */
  readonly code: string | undefined;
  readonly reason: string;
}

/** Statuses that are about the one call. Others are about the way to Stripe: it is away, busy, or does not let us in. */
const callStatuses: ReadonlySet<number | undefined> = new Set([400, 402, 404, 409]);

/**
 * Stripe keeps the first answer to an idempotency key for a day, be it a 500: under that key the call fails for a day,
 * whatever is done meanwhile. Such an answer is marked when it is repeated, and then the next key of this many is used.
 *
 * What the call may have done under the first key does no harm: nobody was told of the page that it may have opened, and
 * Stripe returns no money twice.
 */
const keyCount = 5;

/** The header of an answer that was given before. */
const repeatedHeader = 'idempotent-replayed';

/** Makes the calls of one provider: with a limit of time, and with every failure as a value. */
export function asker({ timeoutMs, log }: { readonly timeoutMs: number; readonly log: Log }) {
  async function ask<Value>(call: () => Promise<Value>): Promise<Asked<Value>> {
    let timer: NodeJS.Timeout | undefined;
    // The library's own limit begins when the connection stands, and again with every byte that arrives.
    const tooLate = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new NoAnswer(`No answer in ${timeoutMs} ms.`)), timeoutMs);
    });
    try {
      return { value: await Promise.race([call(), tooLate]) };
    } catch (error) {
      const failure = failureOf(error);
      const { requestId, statusCode: status } = error instanceof Stripe.errors.StripeError ? error : {};
      // Refusals are answers: a page that is to be closed was just paid, for example.
      log[failure.isRefusal ? 'debug' : 'warn'](
        { provider: 'stripe', requestId, status, reason: failure.reason },
        'stripe call failed',
      );
      return { failure };
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Makes a call that is to be done once, under `key` or its successors.
   *
   * @param again what has become of what was made before; `spent`: it came to nothing, and may be made anew
   */
  async function askOnce<
    Value extends { readonly lastResponse: { readonly headers: Readonly<Record<string, string>> } },
  >(
    key: string,
    call: (options: { idempotencyKey: string }) => Promise<Value>,
    again?: (before: Value) => Promise<Asked<Value> | 'spent'>,
  ): Promise<Asked<Value>> {
    for (let n = 1; ; n += 1) {
      const asked = await ask(() => call({ idempotencyKey: n === 1 ? key : `${key}-${n}` }));
      const isRepeated =
        'failure' in asked
          ? asked.failure.isRepeated
          : asked.value.lastResponse.headers[repeatedHeader] === 'true';
      if (!isRepeated || n === keyCount) return asked;
      if ('failure' in asked) continue;
      const now = again === undefined ? asked : await again(asked.value);
      if (now !== 'spent') return now;
    }
  }

  return { ask, askOnce };
}

class NoAnswer extends Error {
  override readonly name = 'NoAnswer';
}

function failureOf(error: unknown): Failure {
  if (!(error instanceof Stripe.errors.StripeError)) {
    const reason = error instanceof Error ? error.message : String(error);
    return { isRefusal: false, isProviderWell: false, isRepeated: false, code: undefined, reason };
  }
  const { statusCode, code, headers } = error;
  return {
    isRefusal: error instanceof Stripe.errors.StripeInvalidRequestError && statusCode === 400,
    isProviderWell: callStatuses.has(statusCode) && !(error instanceof Stripe.errors.StripeRateLimitError),
    isRepeated: headers?.[repeatedHeader] === 'true',
    code,
    reason: reasonOf(error),
  };
}

/** What a person should read, with the request by which Stripe's own log names it. */
function reasonOf(error: Stripe.errors.StripeError): string {
  const { statusCode, code, rawType, requestId, message } = error;
  const about = [statusCode, code ?? rawType, requestId].filter((part) => part !== undefined).join(', ');
  const told = about === '' ? message : `${message} (${about})`;
  if (error instanceof Stripe.errors.StripeAuthenticationError)
    return `Stripe does not accept our key: ${told}`;
  if (error instanceof Stripe.errors.StripePermissionError)
    return `Our key at Stripe may not do this: ${told}`;
  if (error instanceof Stripe.errors.StripeIdempotencyError) {
    return `This was sent to Stripe before, with other parameters: ${told}`;
  }
  return told;
}

/** A failure, said in the words of the port. */
export function unsaid({ reason, isProviderWell }: Failure) {
  return { reason, isProviderWell };
}
