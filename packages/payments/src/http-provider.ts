import type { Log } from '@lapse/runtime';
import type { z } from 'zod';
import {
  attemptSchema,
  envelopeSchema,
  issueOf,
  noticeSchemas,
  openedSchema,
  parseJson,
  problemSchema,
  refundSchema,
} from './http-protocol.ts';
import type { OpenAttempt, PaymentProvider, RefundAnswer, RefundToSend, Verdict } from './provider.ts';
import { signatures } from './signatures.ts';

/** No answer of the protocol is nearly as long, bytes. */
const maxAnswerBytes = 64 * 1024;

/** What a service is asked to remember a refund for, ms: docs/providers.md. */
const idempotencyWindowMs = 24 * 60 * 60_000;

/** These are about the way to the service, not about what was asked: another try may be answered otherwise. */
const undecidedStatuses: ReadonlySet<number> = new Set([401, 403, 408, 425, 429]);

/** How a shop's payment service is reached. */
export interface HttpProviderOptions {
  /** How attempts, payments and `/hooks/{provider}` name it. */
  readonly name: string;
  /** The calls' paths, `/v1/attempts` and so on, are below it. */
  readonly url: string;
  /** `whsec_…`, shared with the service. While it is being changed two, apart by a space or a comma. */
  readonly secret: string;
  /** How long a call may take, its whole answer included, ms. Default 8000. */
  readonly timeoutMs?: number;
  readonly log?: Log;
}

/**
 * A shop's own payment service that speaks the protocol of docs/providers.md: JSON calls and webhooks, both signed as
 * Standard Webhooks say.
 *
 * What is not in the protocol is `unknown`: only its own words can close an attempt, confirm a payment or refuse.
 */
export function httpProvider({
  name,
  url,
  secret,
  timeoutMs = 8000,
  log,
}: HttpProviderOptions): PaymentProvider {
  const ours = signatures(secret);
  const { origin, pathname } = new URL(url);
  const base = origin + pathname.replace(/\/+$/, '');

  /** Makes a call. Its path is in the body as well, because only the body is signed. */
  async function call<Answer extends Subject>(
    path: string,
    body: Subject & Readonly<Record<string, unknown>>,
    schema: z.ZodType<Answer>,
  ): Promise<Answered<Answer>> {
    const text = JSON.stringify({ call: path, ...body });
    const signal = AbortSignal.timeout(timeoutMs);
    let response: Response;
    let received: string | undefined;
    try {
      response = await fetch(base + path, {
        method: 'POST',
        headers: {
          'Content-Type': 'application/json',
          Accept: 'application/json, application/problem+json',
          ...ours.sign(text),
        },
        body: text,
        // Whoever can redirect a call could close attempts in the service's name.
        redirect: 'manual',
        signal,
      });
      received = await readText(response);
    } catch (error) {
      return unknown(signal.aborted ? `No answer in ${timeoutMs} ms.` : `No answer: ${causeOf(error)}.`);
    }
    const { status, headers } = response;
    if (received === undefined) return unknown(`The answer, with status ${status}, is too long.`);
    const answer = parseJson(received);
    if (status >= 200 && status <= 299) {
      const parsed = schema.safeParse(answer);
      if (!parsed.success) return unknown(`The answer is not of the protocol: ${issueOf(parsed.error)}.`);
      const { attemptId, refundId } = parsed.data;
      if (attemptId !== body.attemptId || refundId !== body.refundId) {
        return unknown('The answer is about another attempt or refund.');
      }
      return { kind: 'answer', answer: parsed.data };
    }
    const problem = problemSchema.safeParse(answer);
    const isProblem = headers.get('content-type')?.startsWith('application/problem+json') === true;
    if (!isProblem || !problem.success) return unknown(`The answer has status ${status}.`);
    const { code, detail } = problem.data;
    const reason = detail === undefined ? code : `${code}: ${detail}`;
    const isDecided = status >= 400 && status <= 499 && !undecidedStatuses.has(status);
    return isDecided ? { kind: 'refused', reason } : unknown(`The answer has status ${status}, ${reason}`);
  }

  async function ask(path: string, attempt: OpenAttempt): Promise<Verdict | { readonly verdict: 'open' }> {
    const { attemptId, orderId, providerAttemptId } = attempt;
    const answered = await call(path, { attemptId, orderId, providerAttemptId }, attemptSchema);
    if (answered.kind !== 'answer') return { verdict: 'unknown', ...unsaid(answered) };
    const { answer } = answered;
    return answer.status === 'paid'
      ? { verdict: 'paid', capture: answer.capture }
      : { verdict: answer.status };
  }

  async function askAboutRefund(path: string, refund: RefundToSend): Promise<Answered<RefundFound>> {
    const { refundId, orderId, providerPaymentId, amount, currency } = refund;
    const body = { refundId, orderId, providerPaymentId, amount, currency };
    const answered = await call(path, body, refundSchema);
    return answered.kind === 'answer' ? { kind: 'answer', answer: found(answered.answer) } : answered;
  }

  return {
    name,
    idempotencyWindowMs,

    async open(attempt) {
      const { attemptId, orderId, amount, currency, payBy, handOff, returnUrl, description } = attempt;
      const answered = await call(
        '/v1/attempts',
        {
          attemptId,
          orderId,
          amount,
          currency,
          payBy: payBy?.toISOString() ?? null,
          handOff,
          returnUrl,
          description,
        },
        openedSchema,
      );
      if (answered.kind !== 'answer') return { outcome: answered.kind, reason: answered.reason };
      const { providerAttemptId, handOff: given } = answered.answer;
      return { outcome: 'opened', providerAttemptId, handOff: given };
    },

    async close(attempt) {
      const verdict = await ask('/v1/attempts/close', attempt);
      return verdict.verdict === 'open'
        ? {
            verdict: 'unknown',
            reason: 'The attempt is still open, though it was to be closed.',
            isProviderWell: true,
          }
        : verdict;
    },

    look: (attempt) => ask('/v1/attempts/look', attempt),

    async refund(refund) {
      const answered = await askAboutRefund('/v1/refunds', refund);
      if (answered.kind !== 'answer') return { state: answered.kind, reason: answered.reason };
      return answered.answer.state === 'none'
        ? {
            state: 'unknown',
            reason: 'There is no such refund, though it was sent now.',
            isProviderWell: true,
          }
        : answered.answer;
    },

    async findRefund(refund) {
      const answered = await askAboutRefund('/v1/refunds/find', refund);
      // A service that refuses to say whether it has the refund has not refused the refund.
      return answered.kind === 'answer' ? answered.answer : { state: 'unknown', ...unsaid(answered) };
    },

    readWebhook(webhook) {
      const checked = ours.check(webhook);
      if (checked.outcome !== 'genuine') return checked;
      const envelope = envelopeSchema.safeParse(parseJson(checked.text));
      if (!envelope.success) return { outcome: 'malformed', reason: issueOf(envelope.error) };
      const { type, data } = envelope.data;
      const schema = noticeSchemas.get(type);
      if (schema === undefined) {
        log?.info({ provider: name, type }, 'webhook of an unknown type ignored');
        return { outcome: 'genuine', notices: [] };
      }
      const notice = schema.safeParse(data);
      if (!notice.success) return { outcome: 'malformed', reason: `${type}: ${issueOf(notice.error)}` };
      return { outcome: 'genuine', notices: [notice.data] };
    },
  };
}

/** What a call and its answer are about; the answer repeats it. */
interface Subject {
  readonly attemptId?: string;
  readonly refundId?: string;
}

type Answered<Answer> =
  | { readonly kind: 'answer'; readonly answer: Answer }
  | { readonly kind: 'refused' | 'unknown'; readonly reason: string };

function unknown(reason: string) {
  return { kind: 'unknown', reason } as const;
}

/** Why nothing is known. A service that refuses a call is well. */
function unsaid({ kind, reason }: { readonly kind: 'refused' | 'unknown'; readonly reason: string }) {
  return { reason, isProviderWell: kind === 'refused' };
}

type RefundFound = RefundAnswer | { readonly state: 'none' };

function found(answer: z.output<typeof refundSchema>): RefundFound {
  switch (answer.status) {
    case 'sent':
    case 'confirmed':
      return { state: answer.status, providerRefundId: answer.providerRefundId };
    case 'failed':
      return { state: 'refused', reason: answer.reason };
    case 'none':
      return { state: 'none' };
  }
}

/** Reads all of an answer; undefined where it is too long. Leaving the loop ends the connection. */
async function readText(response: {
  readonly body: AsyncIterable<Uint8Array> | null;
}): Promise<string | undefined> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.byteLength;
    if (length > maxAnswerBytes) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** What fetch says is "fetch failed"; the reason, with the code of the system, is behind it. */
function causeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause: unknown = error.cause ?? error;
  return cause instanceof Error ? cause.message : String(cause);
}
