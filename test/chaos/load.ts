import { setTimeout as delay } from 'node:timers/promises';

import { createClient, LapseError, type LapseClient } from '@lapse/client';

import { Ledger, type Call, type Entry, type Told } from './ledger.ts';
import { stockAtStart, type PlannedOrder } from './plan.ts';
import { apiKey } from './system.ts';

/** How long the shop waits for an answer, ms; then it asks the other api with the same key. */
const patienceMs = 4000;

/**
 * Calls that may be without an answer before the next order waits. Customers who come faster than they are served would
 * pile up on a busy machine until this process has no file descriptor left.
 */
const mostUnderWay = 1500;

/** How long and how often a call is tried. */
const triesFor = { ms: 45_000, most: 40 };

/** Refusals that are answers, not failures. */
const expectedRefusals: Readonly<Record<Call, readonly string[]>> = {
  checkout: ['out_of_stock'],
  pay: [],
  cancel: ['order_already_paid'],
  // 400 where an earlier try had moved the deadline already, or it is over.
  extend: ['order_not_pending', 'invalid_request'],
};

class NoAnswer extends Error {}

/** Customers: places planned orders over all apis, lives their stories and keeps the ledger. */
export class Load {
  readonly ledger = new Ledger();
  /** Calls that failed and were tried again, by how. */
  readonly failures = new Map<string, number>();
  /** Answers that no fault excuses: 500, an unknown refusal. */
  readonly unexpected: string[] = [];
  /** Calls that were given up without any answer. */
  givenUpCount = 0;
  readonly #apis: readonly { readonly url: string }[];
  readonly #underWay = new Set<Promise<unknown>>();

  constructor(apis: readonly { readonly url: string }[]) {
    this.#apis = apis;
  }

  /** Puts the stock on sale. */
  async setStock(): Promise<void> {
    for (const [sku, onHand] of stockAtStart) await this.#client(0).setStock(sku, onHand);
  }

  /** Places the orders when they are due, and answers when all their stories have ended. */
  async run(orders: Iterable<PlannedOrder>): Promise<void> {
    const startedAt = performance.now();
    const living = new Set<Promise<unknown>>();
    for (const planned of orders) {
      const waitMs = startedAt + planned.atMs - performance.now();
      if (waitMs > 1) await delay(waitMs);
      while (this.#underWay.size > mostUnderWay) await delay(20);
      const life = this.live(planned).finally(() => living.delete(life));
      living.add(life);
    }
    await Promise.all(living);
    // Calls that were not waited for any longer may still be answered, and what they say counts.
    await Promise.race([Promise.allSettled(this.#underWay), delay(15_000, undefined, { ref: false })]);
  }

  /** One order, from its checkout to the end of its story. */
  async live(planned: PlannedOrder): Promise<Entry> {
    const entry = this.ledger.open(planned);
    const { items, paymentWindowMs, reference } = planned;
    const checkout = async (api: number): Promise<Told | undefined> =>
      this.#call(entry, 'checkout', api, async (client) => {
        const body = { reference, currency: 'EUR', items, paymentWindowMs };
        return { order: await client.checkout(body, { idempotencyKey: reference }) };
      });
    const placed = await checkout(planned.api);
    if (placed === undefined) return entry;
    const replayed = planned.replays ? checkout(planned.api + 1) : undefined;
    await this.#act(entry, placed);
    await replayed;
    return entry;
  }

  async #act(entry: Entry, placed: Told): Promise<void> {
    const { planned } = entry;
    const { id } = placed.order;
    const { paymentWindowMs, actsAt, extendByMs, amount } = planned;
    const deadlineAt = new Date(placed.order.deadlineAt ?? '').getTime();
    const tell = (
      capture: string,
      money = amount,
      key = capture,
      api = planned.api,
    ): Promise<Told | undefined> =>
      this.#call(entry, 'pay', api, async (client) => {
        const captureId = `${planned.reference}/${capture}`;
        const report = { provider: 'shop', providerPaymentId: captureId, amount: money, currency: 'EUR' };
        const answer = await client.pay(id, report, { idempotencyKey: `${planned.reference}/${key}` });
        return {
          order: answer.order,
          capture: { id: captureId, outcome: answer.outcome, recordedAs: answer.payment.outcome },
        };
      });
    const pay = async (): Promise<void> => {
      await tell('first');
      if (planned.replays) await tell('first', amount, 'first', planned.api + 1);
    };
    const extend = async (): Promise<void> => {
      const to = { deadlineAt: new Date(deadlineAt + extendByMs).toISOString() };
      await this.#call(entry, 'extend', planned.api + 1, async (client) => ({
        order: await client.extend(id, to),
      }));
    };

    if (planned.story === 'lapses') return;
    await until(deadlineAt - paymentWindowMs * (1 - actsAt));
    switch (planned.story) {
      case 'pays':
        return pay();
      case 'extends, lapses':
        return extend();
      case 'extends, pays':
        await extend();
        await until(deadlineAt + extendByMs / 2);
        return pay();
      case 'cancels':
        await this.#call(entry, 'cancel', planned.api, async (client) => ({
          order: await client.cancel(id),
        }));
        return;
      case 'pays late':
        await until(deadlineAt + 1000);
        return pay();
      case 'pays at the deadline':
        await until(deadlineAt - 150 + 500 * (actsAt - 0.1));
        return pay();
      case 'tells twice':
        await Promise.all([tell('first'), tell('first', amount, 'again', planned.api + 1)]);
        return;
      case 'pays twice':
        await Promise.all([tell('first'), tell('second', amount, 'second', planned.api + 1)]);
        return;
      case 'pays wrong':
        await tell('wrong', amount + 1);
        if (planned.extendByMs % 2 === 0) await pay();
    }
  }

  /** Asks one api after the other until one answers; writes what it says into the ledger, however late it says it. */
  async #call(
    entry: Entry,
    call: Call,
    firstApi: number,
    send: (client: LapseClient) => Promise<Omit<Told, 'call'>>,
  ): Promise<Told | undefined> {
    entry.sent.add(call);
    const giveUpAt = performance.now() + triesFor.ms;
    for (let attempt = 0; attempt < triesFor.most && performance.now() < giveUpAt; attempt += 1) {
      const answer = send(this.#client(firstApi + attempt)).then((said): Told => {
        const told = { call, ...said };
        entry.told.push(told);
        return told;
      });
      this.#keep(answer);
      try {
        return await inTime(answer);
      } catch (error) {
        if (this.#isFinal(call, error)) return undefined;
        await delay(Math.min(1500, 100 * 1.4 ** attempt) * (0.75 + Math.random() / 2));
      }
    }
    this.givenUpCount += 1;
    return undefined;
  }

  #isFinal(call: Call, error: unknown): boolean {
    if (error instanceof LapseError && expectedRefusals[call].includes(error.code)) return true;
    const kind = kindOf(error);
    this.failures.set(kind, (this.failures.get(kind) ?? 0) + 1);
    const isExcused =
      !(error instanceof LapseError) || error.status === 503 || error.code === 'idempotency_in_progress';
    if (!isExcused) this.unexpected.push(`${call} was answered ${kind}: ${String(error)}`);
    return error instanceof LapseError && error.status < 500 && !isExcused;
  }

  #keep(answer: Promise<unknown>): void {
    const ended = answer.catch(() => undefined).finally(() => this.#underWay.delete(ended));
    this.#underWay.add(ended);
  }

  #client(api: number): LapseClient {
    const { url } = this.#apis[api % this.#apis.length] ?? { url: 'http://127.0.0.1:9' };
    return createClient({ baseUrl: url, apiKey });
  }
}

function until(instantMs: number): Promise<void> {
  return delay(Math.max(0, instantMs - Date.now()));
}

async function inTime<Answer>(answer: Promise<Answer>): Promise<Answer> {
  const waited = new AbortController();
  const timeout = delay(patienceMs, undefined, { signal: waited.signal }).then(() => {
    throw new NoAnswer();
  });
  timeout.catch(() => undefined);
  try {
    return await Promise.race([answer, timeout]);
  } finally {
    waited.abort();
  }
}

/** How a call failed: `refused`, `cut off`, `no answer`, or status and code of what was said. */
function kindOf(error: unknown): string {
  if (error instanceof LapseError) return `${error.status} ${error.code}`;
  if (error instanceof NoAnswer) return 'no answer';
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error && 'code' in cause && cause.code === 'ECONNREFUSED' ? 'refused' : 'cut off';
}
