import { createLog, createMetrics } from '@lapse/runtime';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { guarded, type GuardOptions } from './guard.ts';
import type { PaymentProvider, Verdict } from './provider.ts';

const log = createLog('guard-test', 'silent');
const attempt = { attemptId: 'a', orderId: 'o', providerAttemptId: 'p' };
const toOpen = {
  attemptId: 'a',
  orderId: 'o',
  amount: 1,
  currency: 'EUR',
  payBy: null,
  handOff: 'url',
  returnUrl: null,
  description: '',
} as const;
const refund = { refundId: 'r', orderId: 'o', providerPaymentId: 'p', amount: 1, currency: 'EUR' };
const secondAttempt = { ...attempt, attemptId: 'b' };
const away: Verdict = { verdict: 'unknown', reason: 'away' };
const closed: Verdict = { verdict: 'closed' };

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

/** A provider that answers as the test says: every call to close or look waits for `answer`, unless it is told before. */
function stage(options: Partial<GuardOptions> = {}) {
  const calls: string[] = [];
  const waiting: ((verdict: Verdict) => void)[] = [];
  let given: Verdict | Error | undefined;
  const never = new Set<string>();
  const verdict = (call: string, subject: string): Promise<Verdict> => {
    calls.push(call);
    if (never.has(subject)) return Promise.resolve(away);
    if (given instanceof Error) return Promise.reject(given);
    return given === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(given);
  };
  const provider: PaymentProvider = {
    name: 'bank',
    idempotencyWindowMs: 1000,
    async open({ attemptId }) {
      const answer = await verdict('open', attemptId);
      return answer.verdict === 'unknown'
        ? { outcome: 'unknown', reason: answer.reason }
        : { outcome: 'opened', providerAttemptId: 'p', handOff: { url: 'https://bank.example' } };
    },
    close: ({ attemptId }) => verdict('close', attemptId),
    look: ({ attemptId }) => verdict('look', attemptId),
    async refund({ refundId }) {
      const answer = await verdict('refund', refundId);
      return answer.verdict === 'unknown'
        ? { state: 'unknown', reason: answer.reason }
        : { state: 'sent', providerRefundId: 're' };
    },
    async findRefund({ refundId }) {
      const answer = await verdict('findRefund', refundId);
      return answer.verdict === 'unknown' ? { state: 'unknown', reason: answer.reason } : { state: 'none' };
    },
    readWebhook: () => ({ outcome: 'forged', reason: 'It is.' }),
  };
  const states: string[] = [];
  const metrics = createMetrics();
  const guard = guarded(provider, {
    perSecond: 1000,
    concurrency: 100,
    breaker: { failures: 3, resetMs: 10_000 },
    log,
    metrics,
    onBreaker: (state, name) => states.push(`${name} ${state}`),
    ...options,
  });
  return {
    guard,
    provider,
    calls,
    states,
    metrics,
    /** What every call is answered from now on; undefined: each waits. */
    give: (next: Verdict | Error | undefined) => {
      given = next;
    },
    /** What is about this subject is never answered, whatever is given. */
    neverAnswer: (subject: string) => never.add(subject),
    /** Answers the calls that wait. */
    answer: (said: Verdict) => {
      for (const resolve of waiting.splice(0)) resolve(said);
    },
    /** Calls without an answer until the breaker is open. */
    trip: async (count = 3) => {
      given = away;
      for (let n = 0; n < count; n += 1) await guard.close(n === 0 ? secondAttempt : attempt);
      calls.length = 0;
    },
    value: async (name: string, labels: Record<string, string>) => {
      const { values } = (await metrics.getSingleMetric(name)?.get()) ?? { values: [] };
      const wanted = Object.entries(labels);
      return values
        .filter((one) => wanted.every(([key, label]) => one.labels[key] === label))
        .reduce((sum, { value }) => sum + value, 0);
    },
  };
}

/** A breaker that is open, and all that it can ask by itself is never answered. The provider is well. */
async function openByOne() {
  const staged = stage();
  const { guard, give, calls, neverAnswer } = staged;
  neverAnswer(attempt.attemptId);
  give(away);
  await guard.open({ ...toOpen, attemptId: 'x' });
  await guard.close(attempt);
  await guard.close(attempt);
  expect(staged.states).toEqual(['bank open']);
  give(closed);
  calls.length = 0;
  return staged;
}

/** Lets promises settle, and no time pass. */
const turn = () => vi.advanceTimersByTimeAsync(0);

test('every call reaches the provider, and its answer comes back as it is', async () => {
  const { guard, calls, give } = stage();
  give(closed);
  expect(guard.name).toBe('bank');
  expect(guard.idempotencyWindowMs).toBe(1000);
  expect(await guard.open(toOpen)).toMatchObject({ outcome: 'opened', providerAttemptId: 'p' });
  expect(await guard.close(attempt)).toBe(closed);
  expect(await guard.look(attempt)).toBe(closed);
  expect(await guard.refund(refund)).toEqual({ state: 'sent', providerRefundId: 're' });
  expect(await guard.findRefund(refund)).toEqual({ state: 'none' });
  expect(guard.readWebhook({ body: Buffer.alloc(0), headers: {} })).toEqual({
    outcome: 'forged',
    reason: 'It is.',
  });
  expect(calls).toEqual(['open', 'close', 'look', 'refund', 'findRefund']);
});

describe('limits:', () => {
  test('so many calls are under way at the same time, the others follow in order', async () => {
    const { guard, calls, answer } = stage({ concurrency: 2 });
    const answers = [guard.close(attempt), guard.look(attempt), guard.close(attempt), guard.look(attempt)];
    await turn();
    expect(calls).toEqual(['close', 'look']);
    answer(closed);
    await turn();
    expect(calls).toEqual(['close', 'look', 'close', 'look']);
    answer(closed);
    expect(await Promise.all(answers)).toEqual([closed, closed, closed, closed]);
    expect(vi.getTimerCount()).toBe(0);
  });

  test('so many calls start in a second', async () => {
    const { guard, calls, give } = stage({ perSecond: 10 });
    give(closed);
    const answers = Promise.all(Array.from({ length: 15 }, () => guard.close(attempt)));
    await turn();
    expect(calls).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(500);
    expect(calls).toHaveLength(6);
    await vi.advanceTimersByTimeAsync(900);
    expect(calls).toHaveLength(15);
    expect(new Set(await answers)).toEqual(new Set([closed]));
  });

  test('a tenth of a second may start at once, and no more is saved up', async () => {
    const { guard, calls, give } = stage({ perSecond: 50 });
    give(closed);
    await vi.advanceTimersByTimeAsync(60_000);
    const answers = Promise.all(Array.from({ length: 10 }, () => guard.close(attempt)));
    await turn();
    expect(calls).toHaveLength(5);
    await vi.advanceTimersByTimeAsync(100);
    expect(calls).toHaveLength(10);
    await answers;
  });

  test('a call that would have to wait too long for its turn is unknown at once', async () => {
    const { guard, calls, give, states, value } = stage({ perSecond: 10, maxWaitMs: 1000 });
    give(closed);
    const answers = Promise.all(Array.from({ length: 20 }, () => guard.close(attempt)));
    await turn();
    expect(await value('lapse_provider_calls_total', { answer: 'limited' })).toBe(9);
    await vi.advanceTimersByTimeAsync(1000);
    const said = (await answers).map(({ verdict }) => verdict);
    expect(said).toEqual([...Array<string>(11).fill('closed'), ...Array<string>(9).fill('unknown')]);
    expect(calls).toHaveLength(11);
    // Turned away by us, not by the provider.
    expect(states).toEqual([]);
  });

  test('a call that finds no room in time is unknown, and takes none', async () => {
    const { guard, calls, answer } = stage({ concurrency: 1 });
    const first = guard.close(attempt);
    const second = guard.open(toOpen);
    await vi.advanceTimersByTimeAsync(2000);
    expect(await second).toEqual({ outcome: 'unknown', reason: 'Too many calls to bank wait.' });
    answer(closed);
    expect(await first).toEqual(closed);
    const third = guard.look(attempt);
    await turn();
    expect(calls).toEqual(['close', 'look']);
    answer(closed);
    expect(await third).toEqual(closed);
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('the breaker', () => {
  test('opens after so many calls in a row without an answer; then calls are unknown at once', async () => {
    const { guard, calls, give, states } = stage();
    give(away);
    await guard.close(attempt);
    await guard.open(toOpen);
    expect(states).toEqual([]);
    await guard.refund(refund);
    expect(states).toEqual(['bank open']);
    const reason = 'bank does not answer, and is tried again soon.';
    expect(await guard.open(toOpen)).toEqual({ outcome: 'unknown', reason });
    expect(await guard.close(attempt)).toEqual({ verdict: 'unknown', reason });
    expect(await guard.look(attempt)).toEqual({ verdict: 'unknown', reason });
    expect(await guard.refund(refund)).toEqual({ state: 'unknown', reason });
    expect(await guard.findRefund(refund)).toEqual({ state: 'unknown', reason });
    expect(calls).toEqual(['close', 'open', 'refund']);
  });

  test('stays closed while there are answers in between', async () => {
    const { guard, give, states } = stage();
    for (let n = 0; n < 5; n += 1) {
      give(away);
      await guard.close(attempt);
      await guard.close(attempt);
      give(closed);
      await guard.close(attempt);
    }
    expect(states).toEqual([]);
  });

  test('stays closed when the provider is well and only the attempts are unclear', async () => {
    const { guard, give, states } = stage();
    give({ ...away, isProviderWell: true });
    for (let n = 0; n < 10; n += 1) expect(await guard.close(attempt)).toMatchObject({ verdict: 'unknown' });
    expect(states).toEqual([]);
  });

  test('lets one call through after a time, and closes when it is answered', async () => {
    const { guard, calls, give, answer, states, trip } = stage({ concurrency: 1 });
    await trip();
    give(undefined);
    vi.setSystemTime(Date.now() + 10_000);
    const probe = guard.open(toOpen);
    await turn();
    // The others do not wait for it.
    expect(await guard.close(attempt)).toMatchObject({ verdict: 'unknown' });
    expect(calls).toEqual(['open']);
    answer(closed);
    expect(await probe).toMatchObject({ outcome: 'opened' });
    expect(states).toEqual(['bank open', 'bank closed']);
    give(closed);
    expect(await guard.close(attempt)).toBe(closed);
  });

  test('stays open when that call is not answered; nobody is told twice', async () => {
    const { guard, calls, states, trip } = stage();
    await trip();
    vi.setSystemTime(Date.now() + 10_000);
    expect(await guard.close(attempt)).toBe(away);
    expect(await guard.close(attempt)).toMatchObject({ reason: expect.stringContaining('tried again soon') });
    expect(calls).toEqual(['close']);
    expect(states).toEqual(['bank open']);
  });

  test('closes when the provider is back, though nobody calls', async () => {
    const { calls, give, states, trip } = stage();
    await trip();
    await vi.advanceTimersByTimeAsync(35_000);
    // It asks what has no effect.
    expect(calls).toEqual(['look', 'look', 'look']);
    expect(states).toEqual(['bank open']);
    give(closed);
    await vi.advanceTimersByTimeAsync(10_100);
    expect(states).toEqual(['bank open', 'bank closed']);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(calls).toHaveLength(4);
    expect(vi.getTimerCount()).toBe(0);
  });

  test('stays closed, however often one attempt is not answered; its calls count as half of it at most', async () => {
    const { guard, give, states } = stage({ breaker: { failures: 10, resetMs: 10_000 } });
    give(away);
    for (let n = 0; n < 50; n += 1) await guard.close(attempt);
    for (let n = 0; n < 4; n += 1) await guard.close({ ...attempt, attemptId: `of ${n}` });
    expect(states).toEqual([]);
    await guard.close(secondAttempt);
    expect(states).toEqual(['bank open']);
  });

  test('asks about another attempt each time, so that none keeps it open', async () => {
    const { give, calls, states, neverAnswer, trip } = stage();
    neverAnswer(secondAttempt.attemptId);
    await trip();
    give(closed);
    await vi.advanceTimersByTimeAsync(10_100);
    expect(states).toEqual(['bank open']);
    await vi.advanceTimersByTimeAsync(10_100);
    expect(states).toEqual(['bank open', 'bank closed']);
    expect(calls).toEqual(['look', 'look']);
  });

  test('still knows what to ask when a call that was under way is answered', async () => {
    const { guard, give, answer, states, trip } = stage();
    const slow = guard.look({ ...attempt, attemptId: 'slow' });
    await turn();
    await trip();
    answer(closed);
    expect(await slow).toBe(closed);
    give(closed);
    await vi.advanceTimersByTimeAsync(10_100);
    expect(states).toEqual(['bank open', 'bank closed']);
  });

  describe('while one attempt is never answered', () => {
    test('leaves the next try to those who were turned away', async () => {
      const { guard, calls, states } = await openByOne();
      await vi.advanceTimersByTimeAsync(5000);
      expect(await guard.open({ ...toOpen, attemptId: 'y' })).toMatchObject({ outcome: 'unknown' });
      await vi.advanceTimersByTimeAsync(7000);
      // It was its turn, and the one that is never answered has to wait.
      expect(await guard.close(attempt)).toMatchObject({ verdict: 'unknown' });
      expect(calls).toEqual([]);
      expect(await guard.open({ ...toOpen, attemptId: 'y' })).toMatchObject({ outcome: 'opened' });
      expect(calls).toEqual(['open']);
      expect(states).toEqual(['bank open', 'bank closed']);
      expect(vi.getTimerCount()).toBe(0);
    });

    test('waits for them only so long', async () => {
      const { guard, calls } = await openByOne();
      await guard.open({ ...toOpen, attemptId: 'y' });
      await vi.advanceTimersByTimeAsync(14_900);
      expect(calls).toEqual([]);
      await vi.advanceTimersByTimeAsync(200);
      expect(calls).toEqual(['look']);
      // Nobody was turned away since.
      await vi.advanceTimersByTimeAsync(10_100);
      expect(calls).toEqual(['look', 'look']);
    });

    test('lets it through where nobody else waits', async () => {
      const { guard, calls } = await openByOne();
      vi.setSystemTime(Date.now() + 10_000);
      await guard.close(attempt);
      expect(calls).toEqual(['close']);
    });
  });

  test('asks for a refund by looking for it', async () => {
    const { guard, calls, give } = stage();
    give(away);
    for (const refundId of ['r', 's', 't']) await guard.refund({ ...refund, refundId });
    await vi.advanceTimersByTimeAsync(10_100);
    expect(calls).toEqual(['refund', 'refund', 'refund', 'findRefund']);
  });

  test('never opens an attempt by itself', async () => {
    const { guard, calls, give, states } = stage();
    give(away);
    for (const attemptId of ['a', 'b', 'c']) await guard.open({ ...toOpen, attemptId });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(calls).toEqual(['open', 'open', 'open']);
    give(closed);
    await guard.open(toOpen);
    expect(states).toEqual(['bank open', 'bank closed']);
  });

  test('opens while calls wait: they are not sent', async () => {
    const { guard, calls, answer } = stage({ concurrency: 1, breaker: { failures: 1, resetMs: 10_000 } });
    const answers = [guard.close(attempt), guard.close(attempt)];
    await turn();
    answer(away);
    expect(await Promise.all(answers)).toEqual([away, { verdict: 'unknown', reason: expect.any(String) }]);
    expect(calls).toEqual(['close']);
  });

  test('counts an adapter that throws as one that has no answer', async () => {
    const { guard, give, states } = stage();
    give(new Error('a bug'));
    for (const one of [attempt, secondAttempt, attempt]) {
      expect(await guard.close(one)).toEqual({
        verdict: 'unknown',
        reason: 'The adapter of bank failed.',
      });
    }
    expect(states).toEqual(['bank open']);
  });

  test('is not harmed by a listener that throws', async () => {
    const { guard, give, trip } = stage({
      onBreaker() {
        throw new Error('a bug');
      },
    });
    await trip();
    give(closed);
    await vi.advanceTimersByTimeAsync(10_100);
    expect(await guard.close(attempt)).toBe(closed);
  });

  test('lets webhooks through while it is open', async () => {
    const { guard, trip } = stage();
    await trip();
    expect(guard.readWebhook({ body: Buffer.alloc(0), headers: {} }).outcome).toBe('forged');
  });
});

test('metrics count calls by their answers, time them, and show the breaker', async () => {
  const { guard, give, trip, value } = stage();
  give(closed);
  await guard.close(attempt);
  await guard.open(toOpen);
  guard.readWebhook({ body: Buffer.alloc(0), headers: {} });
  const count = (call: string, answer: string) =>
    value('lapse_provider_calls_total', { provider: 'bank', call, answer });
  expect(await count('close', 'closed')).toBe(1);
  expect(await count('open', 'opened')).toBe(1);
  expect(await count('readWebhook', 'forged')).toBe(1);
  expect(await value('lapse_provider_breaker_open', { provider: 'bank' })).toBe(0);
  await trip();
  await guard.close(attempt);
  expect(await count('close', 'unknown')).toBe(3);
  expect(await count('close', 'held')).toBe(1);
  expect(await value('lapse_provider_breaker_open', { provider: 'bank' })).toBe(1);
  expect(await value('lapse_provider_call_seconds', { call: 'close', le: '+Inf' })).toBe(4);
});

test('several providers share the metrics of a process', async () => {
  const metrics = createMetrics();
  const [one, other] = [stage({ metrics }), stage({ metrics })];
  one.give(closed);
  other.give(closed);
  await one.guard.close(attempt);
  await other.guard.close(attempt);
  expect(await metrics.getSingleMetricAsString('lapse_provider_calls_total')).toContain(
    'lapse_provider_calls_total{provider="bank",call="close",answer="closed"} 2',
  );
});
