import { setTimeout as delay } from 'node:timers/promises';

import { createClient, LapseError, type LapseClient } from '@lapse/client';

import { actOut, type Shop } from './customer.ts';
import { Ledger, type Call, type Entry, type Told } from './ledger.ts';
import { stockAtStart, type PlannedOrder } from './plan.ts';
import type { PaymentServices } from './services.ts';
import { apiKey, type System } from './system.ts';

/** How long the shop waits for an answer, ms; then it asks the other api with the same key. */
const patienceMs = 4000;

/**
 * Calls that may be without an answer before the next order waits, where nothing else is said. Customers who come faster
 * than they are served would pile up on a busy machine until this process has no file descriptor left.
 */
const defaultMostUnderWay = 1500;

/** How long and how often a call is tried. */
const triesFor = { ms: 45_000, most: 40 };

/** Refusals that are answers, not failures. */
const expectedRefusals: Readonly<Record<Call, readonly string[]>> = {
  checkout: ['out_of_stock'],
  pay: [],
  cancel: ['order_already_paid'],
  // 400 where an earlier try had moved the deadline already, or it is over.
  extend: ['order_not_pending', 'invalid_request', 'order_closing'],
  open: ['order_not_pending', 'order_closing'],
};

class NoAnswer extends Error {}

/** Customers: places planned orders over all apis, lives their stories and keeps the ledger. */
export class Load {
  readonly ledger = new Ledger();
  /** Calls that failed and were tried again, by how. */
  readonly failures = new Map<string, number>();
  /** Answers that no fault excuses: 500, an unknown refusal. */
  readonly unexpected: string[] = [];
  /** Calls that were given up without any answer: which, and how they failed. */
  readonly givenUp: string[] = [];
  readonly #apis: readonly { readonly url: string }[];
  readonly #services: PaymentServices;
  readonly #mostUnderWay: number;
  readonly #underWay = new Set<Promise<unknown>>();

  constructor(
    { apis, services }: Pick<System, 'apis' | 'services'>,
    { mostUnderWay = defaultMostUnderWay }: { readonly mostUnderWay?: number } = {},
  ) {
    this.#apis = apis;
    this.#services = services;
    this.#mostUnderWay = mostUnderWay;
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
      while (this.#underWay.size > this.#mostUnderWay) await delay(20);
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
    const { items, paymentMethod, paymentWindowMs, reference } = planned;
    const checkout = (api: number): Promise<Told | undefined> =>
      this.#tell(entry, 'checkout', api, async (client) => {
        const body = { reference, paymentMethod, currency: 'EUR', items, paymentWindowMs };
        return { order: await client.checkout(body, { idempotencyKey: reference }) };
      });
    const placed = await checkout(planned.api);
    if (placed === undefined) return entry;
    const replayed = planned.replays ? checkout(planned.api + 1) : undefined;
    const deadlineAt = new Date(placed.order.deadlineAt ?? '').getTime();
    await actOut(planned, deadlineAt, this.#shopFor(entry, placed.order.id), this.#services);
    await replayed;
    return entry;
  }

  /** What the customer of an order can have the shop do. */
  #shopFor(entry: Entry, id: string): Shop {
    const { reference } = entry.planned;
    return {
      report: async ({ capture, amount, key = capture, api }) => {
        await this.#tell(entry, 'pay', api, async (client) => {
          const captureId = `${reference}/${capture}`;
          const report = { provider: 'shop', providerPaymentId: captureId, amount, currency: 'EUR' };
          const answer = await client.pay(id, report, { idempotencyKey: `${reference}/${key}` });
          return {
            order: answer.order,
            capture: { id: captureId, outcome: answer.outcome, recordedAs: answer.payment.outcome },
          };
        });
      },
      extend: async (to, api) => {
        await this.#tell(entry, 'extend', api, async (client) => ({
          order: await client.extend(id, { deadlineAt: to.toISOString() }),
        }));
      },
      cancel: async (api) => {
        await this.#tell(entry, 'cancel', api, async (client) => ({ order: await client.cancel(id) }));
      },
      open: (provider, api) =>
        this.#call(
          entry,
          'open',
          api,
          (client) => client.openAttempt(id, { provider }),
          (attempt) => entry.attempts.push(attempt),
        ),
    };
  }

  /** A call that is answered with an order. */
  #tell(
    entry: Entry,
    call: Told['call'],
    api: number,
    send: (client: LapseClient) => Promise<Omit<Told, 'call'>>,
  ): Promise<Told | undefined> {
    return this.#call(
      entry,
      call,
      api,
      async (client) => ({ call, ...(await send(client)) }),
      (told) => entry.told.push(told),
    );
  }

  /** Asks one api after the other until one answers; keeps what it says, however late it says it. */
  async #call<Answer>(
    entry: Entry,
    call: Call,
    firstApi: number,
    send: (client: LapseClient) => Promise<Answer>,
    keep: (answer: Answer) => void,
  ): Promise<Answer | undefined> {
    entry.sent.add(call);
    const failures: string[] = [];
    const giveUpAt = performance.now() + triesFor.ms;
    for (let attempt = 0; attempt < triesFor.most && performance.now() < giveUpAt; attempt += 1) {
      const answer = send(this.#client(firstApi + attempt)).then((said) => {
        keep(said);
        return said;
      });
      this.#keep(answer);
      try {
        return await inTime(answer);
      } catch (error) {
        if (this.#isFinal(call, error)) return undefined;
        failures.push(kindOf(call, error));
        await delay(Math.min(1500, 100 * 1.4 ** attempt) * (0.75 + Math.random() / 2));
      }
    }
    this.givenUp.push(`${call} of ${entry.planned.reference}: ${failures.join(', ')}`);
    return undefined;
  }

  #isFinal(call: Call, error: unknown): boolean {
    if (error instanceof LapseError && expectedRefusals[call].includes(error.code)) return true;
    const kind = kindOf(call, error);
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

/** An attempt could not be opened: its provider did not answer, or we could not. */
export const notOpened = '503 not opened';

/** How a call failed: `refused`, `cut off`, `no answer`, or status and code of what was said. */
function kindOf(call: Call, error: unknown): string {
  if (error instanceof LapseError)
    return call === 'open' && error.status === 503 ? notOpened : `${error.status} ${error.code}`;
  if (error instanceof NoAnswer) return 'no answer';
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error && 'code' in cause && cause.code === 'ECONNREFUSED' ? 'refused' : 'cut off';
}
