import { Counter, Gauge, Histogram, type Log, type Metrics } from '@lapse/runtime';
import { circuitBreaker, CircuitState, handleWhenResult } from 'cockatiel';
import { Limiter } from './limiter.ts';
import type {
  OpenAnswer,
  OpenAttempt,
  PaymentProvider,
  RefundAnswer,
  RefundToSend,
  Verdict,
} from './provider.ts';

/** How a provider is protected from us, and we from it. */
export interface GuardOptions {
  /** Calls that start in a second, on average. */
  readonly perSecond: number;
  /** Calls that are under way at the same time. */
  readonly concurrency: number;
  /** How long a call may wait for room, ms; then it is answered `unknown`. Default 2000. */
  readonly maxWaitMs?: number;
  readonly breaker: {
    /** So many calls in a row without an answer open it. Those about one attempt or refund count as half of it at most. */
    readonly failures: number;
    /** After this time one call is let through, and decides, ms. */
    readonly resetMs: number;
  };
  readonly log: Log;
  readonly metrics: Metrics;
  /** Hears when the provider is away, and when it is back. */
  readonly onBreaker?: (state: 'open' | 'closed', provider: string) => void;
}

/**
 * The same provider, called with measure: so many calls a second, so many at a time, and none while it is away, but one now
 * and then to see whether it is back. What is not let through is answered `unknown`, soon.
 *
 * An answer that says nothing (`unknown`) counts as none, unless the adapter knows that the provider is well. An adapter
 * that throws is broken: it is logged, and answered for with `unknown`.
 *
 * There may be an attempt that the provider never answers about, though it is well. Such a one alone does not open the
 * circuit, nor keep it open: the call that shows whether the provider is back is about another one, if there is any.
 */
export function guarded(provider: PaymentProvider, options: GuardOptions): PaymentProvider {
  const { perSecond, concurrency, maxWaitMs = 2000, log, onBreaker } = options;
  const { failures, resetMs } = options.breaker;
  const { name } = provider;
  const { calls, seconds, breakerOpen } = metricsIn(options.metrics);
  const limiter = new Limiter({ perSecond, concurrency, maxWaitMs });
  /** When the open breaker lets a call through; undefined: it is closed. */
  let triesAt: number | undefined;
  /** What had no answer since the last answer, by its subject, those asked longest ago first. */
  const unanswered = new Map<string, Unanswered>();
  /** The subject of the last call that had no answer. */
  let lastUnanswered: string | undefined;
  /** Whether calls about others than that were turned away since the breaker opened, or stayed open. */
  let othersWait = false;
  let timer: NodeJS.Timeout | undefined;

  const breaker = circuitBreaker(handleWhenResult(isUnansweredCall), {
    breaker: {
      state: undefined,
      success() {
        // One that was under way when the breaker opened does not close it.
        if (triesAt === undefined) unanswered.clear();
      },
      failure() {
        let count = 0;
        for (const { times } of unanswered.values()) count += Math.min(times, Math.ceil(failures / 2));
        return count >= failures;
      },
    },
    halfOpenAfter: resetMs,
  });

  /** How long the next try is left to calls about others than the last one, where there were any; then it is for all. */
  const forOthersMs = resetMs / 2;
  const isForOthers = (): boolean =>
    othersWait && triesAt !== undefined && Date.now() < triesAt + forOthersMs;

  /** Whether a call is not let through: the provider is away, or another one shows whether it is. */
  const isHeld = (subject: string): boolean => {
    if (triesAt === undefined) return false;
    if (Date.now() < triesAt || breaker.state === CircuitState.HalfOpen) return true;
    return subject === lastUnanswered && isForOthers();
  };

  const tell = (state: 'open' | 'closed'): void => {
    breakerOpen.set({ provider: name }, state === 'open' ? 1 : 0);
    log.warn({ provider: name }, state === 'open' ? 'payment provider is away' : 'payment provider is back');
    try {
      onBreaker?.(state, name);
    } catch (error) {
      log.error({ err: error, provider: name }, 'listener of the circuit breaker failed');
    }
  };

  /**
   * Asks once more when it is time, though nobody else does: while clocks are frozen because the provider is away, no
   * order is due, so that nobody would notice that it is back. Each time about another one. Where somebody else calls,
   * the try is left to them for a while: no old question can spoil it.
   */
  const askAgain = (afterMs = resetMs): void => {
    clearTimeout(timer);
    // Timers may be a millisecond early.
    timer = setTimeout(() => {
      if (triesAt === undefined) return;
      const [question] = [...unanswered.values()].flatMap((one) => one.question ?? []);
      const isUnderWay = breaker.state === CircuitState.HalfOpen;
      if (isForOthers()) askAgain(forOthersMs);
      else if (question === undefined || isUnderWay) askAgain();
      else void breaker.execute(() => send(question));
    }, afterMs + 10).unref();
  };

  const note = ({ subject, question }: Call<AnyAnswer>): void => {
    lastUnanswered = subject;
    const before = unanswered.get(subject);
    const toAsk = question ?? before?.question;
    // While the breaker is open only what can be asked again is of use, and no more of it than opened it.
    if (triesAt !== undefined && toAsk === undefined) return;
    unanswered.delete(subject);
    unanswered.set(subject, { times: (before?.times ?? 0) + 1, question: toAsk });
    const [oldest] = unanswered.keys();
    if (unanswered.size > failures && oldest !== undefined) unanswered.delete(oldest);
  };

  breaker.onBreak(() => {
    const wasClosed = triesAt === undefined;
    triesAt = Date.now() + resetMs;
    othersWait = false;
    askAgain();
    if (wasClosed) tell('open');
  });
  breaker.onReset(() => {
    triesAt = undefined;
    clearTimeout(timer);
    unanswered.clear();
    tell('closed');
  });
  breakerOpen.set({ provider: name }, 0);

  async function send<Answer extends AnyAnswer>(call: Call<Answer>): Promise<Sent<Answer>> {
    const labels = { provider: name, call: call.name };
    const stopTimer = seconds.startTimer(labels);
    let answer: Answer;
    try {
      answer = await call.ask();
    } catch (error) {
      log.error({ err: error, ...labels }, 'payment adapter failed');
      answer = call.unsaid(`The adapter of ${name} failed.`);
    }
    stopTimer();
    calls.inc({ ...labels, answer: wordOf(answer) });
    const isUnanswered =
      wordOf(answer) === 'unknown' && !('isProviderWell' in answer && answer.isProviderWell);
    if (isUnanswered) note(call);
    return { answer, isUnanswered };
  }

  async function pass<Answer extends AnyAnswer>(call: Call<Answer>): Promise<Answer> {
    const turnAway = (answer: 'held' | 'limited', reason: string): Answer => {
      calls.inc({ provider: name, call: call.name, answer });
      return call.unsaid(reason);
    };
    const hold = (): Answer => {
      if (call.subject !== lastUnanswered) othersWait = true;
      return turnAway('held', `${name} does not answer, and is tried again soon.`);
    };
    if (isHeld(call.subject)) return hold();
    const passed = await limiter.run(async () => {
      // Nobody waits for the call that is under way to show whether the provider is back.
      return isHeld(call.subject) ? undefined : breaker.execute(() => send(call));
    });
    if (passed === undefined) return turnAway('limited', `Too many calls to ${name} wait.`);
    return passed.result === undefined ? hold() : passed.result.answer;
  }

  /** A question is its own question. */
  const lookAt = (attempt: OpenAttempt): Call<Look> => {
    const call: Call<Look> = {
      name: 'look',
      subject: attempt.attemptId,
      ask: () => provider.look(attempt),
      unsaid: unsaidVerdict,
    };
    return { ...call, question: call };
  };

  const searchFor = (refund: RefundToSend): Call<Found> => {
    const call: Call<Found> = {
      name: 'findRefund',
      subject: refund.refundId,
      ask: () => provider.findRefund(refund),
      unsaid: unsaidRefund,
    };
    return { ...call, question: call };
  };

  return {
    name,
    idempotencyWindowMs: provider.idempotencyWindowMs,

    open: (attempt) =>
      pass<OpenAnswer>({
        name: 'open',
        subject: attempt.attemptId,
        ask: () => provider.open(attempt),
        unsaid: (reason) => ({ outcome: 'unknown', reason }),
      }),

    close: (attempt) =>
      pass<Verdict>({
        name: 'close',
        subject: attempt.attemptId,
        ask: () => provider.close(attempt),
        unsaid: unsaidVerdict,
        question: lookAt(attempt),
      }),

    look: (attempt) => pass(lookAt(attempt)),

    refund: (refund) =>
      pass<RefundAnswer>({
        name: 'refund',
        subject: refund.refundId,
        ask: () => provider.refund(refund),
        unsaid: unsaidRefund,
        question: searchFor(refund),
      }),

    findRefund: (refund) => pass(searchFor(refund)),

    readWebhook(webhook) {
      const read = provider.readWebhook(webhook);
      calls.inc({ provider: name, call: 'readWebhook', answer: read.outcome });
      return read;
    },
  };
}

type Look = Awaited<ReturnType<PaymentProvider['look']>>;
type Found = Awaited<ReturnType<PaymentProvider['findRefund']>>;
type AnyAnswer = OpenAnswer | Look | Found;

/** A call of a provider that is to be made. */
interface Call<Answer> {
  readonly name: 'open' | 'close' | 'look' | 'refund' | 'findRefund';
  /** Our id of the attempt or refund that it is about. */
  readonly subject: string;
  ask(): Promise<Answer>;
  /** The answer where there is none. */
  unsaid(reason: string): Answer;
  /** A call without effect whose answer would show, too, that the provider is there. */
  readonly question?: Call<AnyAnswer>;
}

/** An attempt or refund about which there was no answer. */
interface Unanswered {
  readonly times: number;
  /** What can be asked about it without effect. */
  readonly question: Call<AnyAnswer> | undefined;
}

interface Sent<Answer> {
  readonly answer: Answer;
  readonly isUnanswered: boolean;
}

function isUnansweredCall(sent: unknown): boolean {
  return typeof sent === 'object' && sent !== null && 'isUnanswered' in sent && sent.isUnanswered === true;
}

function wordOf(answer: AnyAnswer): string {
  if ('outcome' in answer) return answer.outcome;
  return 'verdict' in answer ? answer.verdict : answer.state;
}

function unsaidVerdict(reason: string) {
  return { verdict: 'unknown', reason } as const;
}

function unsaidRefund(reason: string) {
  return { state: 'unknown', reason } as const;
}

/** The metrics of all providers of a process, by its registry: a name can be registered once. */
const metricsOf = new WeakMap<Metrics, ReturnType<typeof createProviderMetrics>>();

function metricsIn(registry: Metrics) {
  const known = metricsOf.get(registry) ?? createProviderMetrics(registry);
  metricsOf.set(registry, known);
  return known;
}

function createProviderMetrics(registry: Metrics) {
  const registers = [registry];
  return {
    calls: new Counter({
      name: 'lapse_provider_calls_total',
      help: 'Calls to payment providers by their answer; held: the breaker was open, limited: too many waited',
      labelNames: ['provider', 'call', 'answer'],
      registers,
    }),
    seconds: new Histogram({
      name: 'lapse_provider_call_seconds',
      help: 'How long payment providers took to answer',
      labelNames: ['provider', 'call'],
      buckets: [0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16],
      registers,
    }),
    breakerOpen: new Gauge({
      name: 'lapse_provider_breaker_open',
      help: 'Whether the circuit breaker of a payment provider is open (1)',
      labelNames: ['provider'],
      registers,
    }),
  };
}
