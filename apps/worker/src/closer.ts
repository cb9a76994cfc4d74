import type { Deadlines } from '@lapse/deadlines';
import type { AttemptToAsk, ExpireAnswer, Orders } from '@lapse/orders';
import { describeAttempt, type PaymentProvider, type Verdict } from '@lapse/payments';
import { Counter, Gauge, periodic, type Log, type Metrics, type Service } from '@lapse/runtime';

/** How often questions that are due by themselves are looked for, ms. */
const lookEveryMs = 1000;

/** Questions to providers at a time. More would only wait for each other, behind the limits of a provider. */
const laneCount = 20;

/** Most questions that are claimed at a time. */
const claimLimit = 50;

/** Most orders in hand: when a provider takes 8 s for each, the last is answered before its claim ends, after 45 s. */
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
 * sweep. Any number of workers do this side by side.
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
  const inHandCount = new Gauge({
    name: 'lapse_closing_orders_in_hand',
    help: 'Orders whose payment providers are being asked by this worker',
    registers,
  });
  const lanes = new Lanes(laneCount);
  const inHand = new Set<string>();
  const letGo = (orderId: string): void => {
    inHand.delete(orderId);
    inHandCount.set(inHand.size);
  };
  let isStopped = false;
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
    const asked = await Promise.allSettled(attempts.map((attempt) => ask(attempt, how)));
    for (const one of asked) {
      if (one.status === 'fulfilled') continue;
      errors.inc();
      log.warn({ err: one.reason, orderId: attempts[0]?.orderId }, 'verdict was not kept');
    }
    return asked.some((one) => one.status === 'fulfilled' && one.value);
  };

  const closeOrders = async (orderIds: readonly string[]): Promise<void> => {
    const byOrder = Map.groupBy(await orders.openAttempts(orderIds), ({ orderId }) => orderId);
    await Promise.all(
      orderIds.map((orderId) =>
        lanes.run(async () => {
          const isDue = await askAll(byOrder.get(orderId) ?? [], 'close');
          letGo(orderId);
          if (!isDue) return;
          const answers = await orders.expire([orderId], 'worker');
          log.debug({ orderId, answer: answers.get(orderId)?.answer }, 'order expired after its verdict');
        }),
      ),
    );
  };

  const track = (work: Promise<void>, orderIds: readonly string[]): void => {
    const tracked = work
      .catch((error: unknown) => {
        errors.inc(orderIds.length);
        log.warn({ err: error, orderCount: orderIds.length }, 'payment providers could not be asked');
      })
      .finally(() => {
        for (const orderId of orderIds) letGo(orderId);
        underWay.delete(tracked);
      });
    underWay.add(tracked);
  };

  const periodically = periodic({
    name: 'closer',
    everyMs: lookEveryMs,
    log,
    onError: () => errors.inc(),
    async task(stopped) {
      for (let mayBeMore = true; mayBeMore && !stopped.aborted;) {
        const due = await orders.claimDueAsks(claimLimit);
        await Promise.all(due.map((attempt) => lanes.run(() => askAll([attempt], attempt.how))));
        mayBeMore = due.length === claimLimit;
      }
    },
  });
  return {
    ...periodically,
    take(answers) {
      const fresh = [...answers].flatMap(([orderId, answer]) =>
        answer.answer === 'closing' && answer.isOurs && !inHand.has(orderId) ? [orderId] : [],
      );
      if (fresh.length === 0 || isStopped) return;
      const room = Math.max(0, maxInHand - inHand.size);
      const now = fresh.slice(0, room);
      const later = fresh.slice(room);
      for (const orderId of now) inHand.add(orderId);
      inHandCount.set(inHand.size);
      if (now.length > 0) track(closeOrders(now), now);
      // The farther behind, the later: they come back a few at a time.
      for (let n = 0; n < later.length; n += maxInHand)
        track(orders.putOffClosing(later.slice(n, n + maxInHand), putOffMs * (1 + n / maxInHand)), []);
    },
    async stop() {
      isStopped = true;
      await periodically.stop();
      let timer: NodeJS.Timeout | undefined;
      const tooLong = new Promise((resolve) => {
        timer = setTimeout(resolve, stopWaitMs);
      });
      await Promise.race([Promise.all(underWay), tooLong]);
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
