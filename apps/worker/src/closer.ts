import type { Deadlines } from '@lapse/deadlines';
import type { AskDue, AttemptToAsk, ExpireAnswer, Orders } from '@lapse/orders';
import { describeAttempt, type PaymentProvider, type Verdict } from '@lapse/payments';
import { Counter, Gauge, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How often questions that are due by themselves are looked for, ms. */
const lookEveryMs = 1000;

/** Questions to a provider at a time. More would only wait for each other, behind its limits. */
const laneCount = 20;

/** Most questions that are claimed at a time. A provider gets the next ones when it has answered those that it has. */
const claimLimit = 50;

/** Most orders in hand for a provider: when it takes 8 s for each, the last is answered before its claim ends, after 45 s. */
const maxInHand = 60;

/** How long orders wait that are more than that, ms: in this time about as many are answered, at 25 a second. */
const putOffMs = 2000;

/** How long `stop` waits for answers that are under way, ms. A claim that is left behind ends by itself. */
const stopWaitMs = 5000;

/** Asks payment providers what became of attempts, before orders are cancelled, and after they were settled otherwise. */
export interface Closer extends Service {
  /** Asks the providers of orders that expiry fenced, and cancels those for which no money can come. Does not wait. */
  take(answers: ReadonlyMap<string, ExpireAnswer>): void;
}

/**
 * Before an order with an open payment attempt is cancelled, its provider closes the attempt and says what became of it:
 * nobody is charged for nothing. Orders are fenced and claimed by expiry; what is not answered here is found again by a
 * sweep. Any number of workers do this side by side. Each provider has lanes of its own: one that is slow holds up no other.
 */
export function closer(options: {
  orders: Orders;
  deadlines: Deadlines;
  providers: ReadonlyMap<string, PaymentProvider>;
  log: Log;
  metrics: Metrics;
}): Closer {
  const { orders, deadlines, providers, log, metrics } = options;
  const registers = [metrics];
  const verdicts = new Counter({
    name: 'lapse_attempt_verdicts_total',
    help: 'What providers said of payment attempts that the workers asked about',
    labelNames: ['provider', 'how', 'verdict'],
    registers,
  });
  const errors = new Counter({
    name: 'lapse_closer_errors_total',
    help: 'Payment attempts that could not be asked about, or whose verdict was not kept; asked again later',
    registers,
  });
  const cancelled = new Counter({
    name: 'lapse_closer_cancelled_total',
    help: 'Orders that were cancelled after their payment providers had said that no money comes',
    registers,
  });
  const failed = new Counter({
    name: 'lapse_closer_failed_total',
    help: 'Orders that the database refused to cancel after the verdict of their providers; the sweeper tries again',
    registers,
  });
  const inHandCount = new Gauge({
    name: 'lapse_closing_orders_in_hand',
    help: 'Orders whose payment providers are being asked by this worker',
    registers,
  });
  const lanes = new Map<string, Lanes>();
  const lanesOf = (provider: string): Lanes => {
    const known = lanes.get(provider) ?? new Lanes(laneCount);
    lanes.set(provider, known);
    return known;
  };
  const inHand = new Set<string>();
  const letGo = (orderId: string): void => {
    inHand.delete(orderId);
    inHandCount.set(inHand.size);
  };
  /** How many orders wait for a provider's answer. */
  const waiting = new Map<string, number>();
  const countOf = (provider: string): number => waiting.get(provider) ?? 0;
  const addTo = (attempts: readonly AttemptToAsk[], count: 1 | -1): void => {
    for (const { provider } of attempts) waiting.set(provider, countOf(provider) + count);
  };
  const stopped = new AbortController();
  const underWay = new Set<Promise<void>>();

  /** Asks about one attempt, and keeps the answer. Says whether its order may be cancelled now. */
  const ask = async (attempt: AttemptToAsk, how: 'look' | 'close'): Promise<boolean> => {
    const said = await askProvider(orders, providers.get(attempt.provider), attempt, how);
    verdicts.inc({ provider: attempt.provider, how, verdict: said.verdict });
    const actor = 'worker';
    if (said.verdict !== 'paid') {
      const kept = await orders.recordVerdict({ attemptId: attempt.id, actor, ...said });
      return kept.outcome === 'recorded' && kept.isDue;
    }
    const { orderId, provider, id: attemptId } = attempt;
    const paid = await orders.pay({ ...said.capture, orderId, provider, attemptId, verified: true, actor });
    if (paid.outcome === 'paid') {
      const { partition, remindAt } = paid.order;
      await deadlines.disarm({ orderId, partition, remindAt });
    }
    if (!('payment' in paid)) {
      // Its money was told of for another order, which a person will see. This attempt brings none.
      log.error({ orderId, attemptId, outcome: paid.outcome }, 'payment of an attempt was not recorded');
      await orders.recordVerdict({ attemptId, verdict: 'closed', reason: paid.outcome, actor });
    }
    return false;
  };

  /** Asks about all attempts of an order at once; one that fails is asked again later. */
  const askAll = async (attempts: readonly AttemptToAsk[], how: 'look' | 'close'): Promise<boolean> => {
    const asked = await Promise.allSettled(
      attempts.map((attempt) => lanesOf(attempt.provider).run(() => ask(attempt, how))),
    );
    for (const one of asked) {
      if (one.status === 'fulfilled') continue;
      errors.inc();
      log.warn({ err: one.reason, orderId: attempts[0]?.orderId }, 'verdict was not kept');
    }
    return asked.some((one) => one.status === 'fulfilled' && one.value);
  };

  const expire = async (orderId: string): Promise<void> => {
    const answer = (await orders.expire([orderId], 'worker')).get(orderId);
    log.debug({ orderId, answer: answer?.answer }, 'order looked at after its verdict');
    if (answer?.answer === 'cancelled') cancelled.inc();
    if (answer?.answer !== 'failed') return;
    failed.inc();
    log.error({ orderId, err: answer.error }, 'order could not be expired');
  };

  /** Asks about an order, and cancels it if no money can come. One that fails is none of the others' business. */
  const closeOrder = async (orderId: string, attempts: readonly AttemptToAsk[]): Promise<void> => {
    addTo(attempts, 1);
    const isDue = await askAll(attempts, 'close');
    addTo(attempts, -1);
    letGo(orderId);
    if (!isDue) return;
    await expire(orderId).catch((error: unknown) => {
      errors.inc();
      log.warn({ err: error, orderId }, 'order was not expired after its verdict, the sweeper does it');
    });
  };

  /** Asks about those of the orders for which their providers have room, and puts off the others. */
  const closeOrders = async (orderIds: readonly string[]): Promise<void> => {
    const open = await orders.openAttempts(orderIds).catch((error: unknown) => {
      for (const orderId of orderIds) letGo(orderId);
      throw error;
    });
    const byOrder = Map.groupBy(open, ({ orderId }) => orderId);
    const now: Promise<void>[] = [];
    const later = new Map<string, string[]>();
    for (const orderId of orderIds) {
      const attempts = byOrder.get(orderId) ?? [];
      const full = attempts.find(({ provider }) => countOf(provider) >= maxInHand);
      if (full === undefined) {
        now.push(closeOrder(orderId, attempts));
        continue;
      }
      const behind = later.get(full.provider) ?? [];
      behind.push(orderId);
      later.set(full.provider, behind);
    }
    for (const behind of later.values()) void track(putOff(behind), behind.length);
    await Promise.all(now);
  };

  /** The farther behind, the later: they come back a few at a time. */
  const putOff = async (orderIds: readonly string[]): Promise<void> => {
    for (const orderId of orderIds) letGo(orderId);
    for (let n = 0; n < orderIds.length; n += maxInHand)
      await orders.putOffClosing(orderIds.slice(n, n + maxInHand), putOffMs * (1 + n / maxInHand));
  };

  /** Lets `stop` wait for something, and keeps its failure to itself. */
  const track = (work: Promise<void>, count: number): Promise<void> => {
    const tracked = work
      .catch((error: unknown) => {
        errors.inc(count);
        log.warn({ err: error, count }, 'payment providers could not be asked');
      })
      .finally(() => underWay.delete(tracked));
    underWay.add(tracked);
    return tracked;
  };

  /** Providers that have not answered all of the last questions that were due by themselves. They get no others. */
  const busy = new Set<string>();
  const askDue = async (provider: string, due: readonly AskDue[]): Promise<void> => {
    await Promise.all(due.map((attempt) => askAll([attempt], attempt.how)));
    busy.delete(provider);
  };
  const claimDue = async (): Promise<void> => {
    for (let mayBeMore = true; mayBeMore && !stopped.signal.aborted;) {
      const due = await orders.claimDueAsks(claimLimit, [...busy]);
      mayBeMore = due.length === claimLimit;
      for (const [provider, asks] of Map.groupBy(due, (attempt) => attempt.provider)) {
        busy.add(provider);
        const answered = track(askDue(provider, asks), asks.length);
        // Those of other providers are looked for at once; more of its own when it has answered these.
        if (mayBeMore) void answered.then(lookForDue).catch(() => undefined);
      }
    }
  };
  let claiming: Promise<void> | undefined;
  /** One look at a time: two would claim twice as many. What fails is told of by the next one. */
  const lookForDue = (): Promise<void> => {
    claiming = (claiming ?? Promise.resolve()).catch(() => undefined).then(claimDue);
    return claiming;
  };

  const periodically = periodic({
    name: 'closer',
    everyMs: lookEveryMs,
    log,
    onError: () => errors.inc(),
    task: lookForDue,
  });
  return {
    ...periodically,
    take(answers) {
      const fresh = [...answers].flatMap(([orderId, answer]) =>
        answer.answer === 'closing' && answer.isOurs && !inHand.has(orderId) ? [orderId] : [],
      );
      if (fresh.length === 0 || stopped.signal.aborted) return;
      for (const orderId of fresh) inHand.add(orderId);
      inHandCount.set(inHand.size);
      void track(closeOrders(fresh), fresh.length);
    },
    async stop() {
      stopped.abort();
      let timer: NodeJS.Timeout | undefined;
      const tooLong = new Promise((resolve) => {
        timer = setTimeout(resolve, stopWaitMs);
      });
      await Promise.race([Promise.all([periodically.stop(), ...underWay]), tooLong]);
      clearTimeout(timer);
    },
  };
}

type Said = Verdict | { readonly verdict: 'open' } | { readonly verdict: 'refused'; readonly reason: string };

/** Asks a provider about an attempt. One of which it is not known whether it was opened is opened first, in the same way. */
export async function askProvider(
  orders: Orders,
  provider: PaymentProvider | undefined,
  attempt: AttemptToAsk,
  how: 'look' | 'close',
): Promise<Said> {
  const { id: attemptId, orderId } = attempt;
  if (provider === undefined) {
    return { verdict: 'unknown', reason: `provider '${attempt.provider}' is not connected to this worker` };
  }
  let { providerAttemptId } = attempt;
  if (providerAttemptId === null) {
    const opened = await provider.open(describeAttempt(attempt, attempt.order));
    if (opened.outcome !== 'opened') {
      return { verdict: opened.outcome === 'refused' ? 'refused' : 'unknown', reason: opened.reason };
    }
    ({ providerAttemptId } = opened);
    await orders.recordOpened({ attemptId, providerAttemptId, handOff: opened.handOff });
  }
  const open = { attemptId, orderId, providerAttemptId };
  return how === 'close' ? provider.close(open) : provider.look(open);
}

/** Runs so many things at a time, those that come first before the others. */
class Lanes {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  async run<Result>(work: () => Promise<Result>): Promise<Result> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }
}
