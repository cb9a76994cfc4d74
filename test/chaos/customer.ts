import { setTimeout as delay } from 'node:timers/promises';

import type { PaymentAttempt } from '@lapse/client';

import type { PlannedOrder } from './plan.ts';
import { providerNames, type PaymentServices } from './services.ts';

/** What a customer has the shop do about an order. Each call is made until it is answered, beginning at one of the apis. */
export interface Shop {
  /** Reports a payment; under another key it is reported again, not repeated. */
  report(payment: { capture: string; amount: number; key?: string; api: number }): Promise<void>;
  extend(to: Date, api: number): Promise<void>;
  cancel(api: number): Promise<void>;
  /** Opens a page to pay on; undefined where the order's time is over. */
  open(provider: string, api: number): Promise<PaymentAttempt | undefined>;
}

/** A way to pay. */
interface Way {
  /** What is done before the customer decides. */
  prepare(): Promise<void>;
  pay(): Promise<void>;
  /** Has the same payment told twice, or the same page loaded twice. */
  tellTwice(): Promise<void>;
  payTwice(): Promise<void>;
  payWrong(): Promise<void>;
}

/**
 * Lives the story of an order that was placed.
 *
 * @param deadlineAt as the shop was told, ms
 */
export async function actOut(
  planned: PlannedOrder,
  deadlineAt: number,
  shop: Shop,
  services: PaymentServices,
): Promise<void> {
  const { paymentWindowMs, actsAt, extendByMs, api, coin } = planned;
  const extendedTo = deadlineAt + extendByMs;
  const extend = (): Promise<void> => shop.extend(new Date(extendedTo), api + 1);
  const way = planned.way === 'report' ? byReport(planned, shop) : byAttempt(planned, shop, services);

  await way.prepare();
  if (planned.story === 'lapses') return;
  await until(deadlineAt - paymentWindowMs * (1 - actsAt));
  switch (planned.story) {
    case 'pays':
      return way.pay();
    case 'extends, lapses':
      return extend();
    case 'extends, pays':
      await extend();
      await until(deadlineAt + extendByMs / 2);
      return way.pay();
    case 'cancels':
      await Promise.all([shop.cancel(api), coin ? way.pay() : undefined]);
      return;
    case 'pays late':
      await until(deadlineAt + 1000);
      return way.pay();
    case 'pays at the deadline':
      await until(deadlineAt - 150 + 500 * (actsAt - 0.1));
      return way.pay();
    case 'tells twice':
      return way.tellTwice();
    case 'pays twice':
      return way.payTwice();
    case 'pays wrong':
      await way.payWrong();
      if (coin) await way.pay();
  }
}

/** The shop itself takes the money, and reports it. */
function byReport({ amount, api, replays }: PlannedOrder, shop: Shop): Way {
  return {
    prepare: () => Promise.resolve(),
    async pay() {
      await shop.report({ capture: 'first', amount, api });
      if (replays) await shop.report({ capture: 'first', amount, api: api + 1 });
    },
    async tellTwice() {
      await Promise.all([
        shop.report({ capture: 'first', amount, api }),
        shop.report({ capture: 'first', amount, key: 'again', api: api + 1 }),
      ]);
    },
    async payTwice() {
      await Promise.all([
        shop.report({ capture: 'first', amount, api }),
        shop.report({ capture: 'second', amount, api: api + 1 }),
      ]);
    },
    payWrong: () => shop.report({ capture: 'wrong', amount: amount + 1, api }),
  };
}

/** A payment provider takes the money, and tells of it. The customer has the page open for a while before. */
function byAttempt(planned: PlannedOrder, shop: Shop, services: PaymentServices): Way {
  const { amount, api, paysSlowly: isSlow, paymentWindowMs, actsAt, replays } = planned;
  const [provider, another] = api === 0 ? providerNames : providerNames.toReversed();
  const open = (from = provider, first = api): Promise<PaymentAttempt | undefined> =>
    shop.open(from ?? '', first);
  const payOn = (page: PaymentAttempt | undefined, how = { amount, isSlow }): void => {
    if (page !== undefined) services.pay(page, how);
  };
  /** The page that the customer has before him. */
  let page: PaymentAttempt | undefined;
  return {
    async prepare() {
      await delay((paymentWindowMs * actsAt) / 2);
      page = await open();
      if (replays) page = (await open(provider, api + 1)) ?? page;
    },
    pay: async () => payOn(page ?? (await open())),
    async tellTwice() {
      const [again] = await Promise.all([open(), open(provider, api + 1)]);
      payOn(again ?? page);
    },
    async payTwice() {
      const other = await open(another, api + 1);
      payOn(page);
      payOn(other);
    },
    payWrong() {
      payOn(page, { amount: amount + 1, isSlow: false });
      // Its attempt has ended with that.
      page = undefined;
      return Promise.resolve();
    },
  };
}

function until(instantMs: number): Promise<void> {
  return delay(Math.max(0, instantMs - Date.now()));
}
