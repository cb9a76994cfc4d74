import { setTimeout as delay } from 'node:timers/promises';
import { LapseError, type LapseClient, type Order } from '@lapse/client';
import type { Sandbox } from '@lapse/devstack';

/** What one customer did and what became of the order. */
export interface Story {
  readonly title: string;
  readonly happened: string;
  /** For an order that lapsed: time from its deadline to its cancellation, ms. */
  readonly latenessMs: number | undefined;
  readonly asExpected: boolean;
}

/** Where the stories happen. */
interface Shop {
  readonly client: LapseClient;
  /** A payment provider, and what its customers do. */
  readonly sandbox: Sandbox;
}

/** A story as it is written: plays it and returns what happened beside what should have. */
interface Script {
  readonly title: string;
  play(client: LapseClient, sandbox: Sandbox): Promise<Ending>;
}

interface Ending {
  readonly happened: string;
  readonly expected: string;
  /** The order, where its lateness is of interest. */
  readonly order?: Order;
}

const unitAmount = 1250;

/** Places an order of one mug. */
function buyMug(client: LapseClient, paymentWindowMs: number, idempotencyKey?: string): Promise<Order> {
  const checkout = { currency: 'EUR', items: [{ sku: 'mug', quantity: 1, unitAmount }], paymentWindowMs };
  return client.checkout(checkout, idempotencyKey === undefined ? {} : { idempotencyKey });
}

let paymentCount = 0;

async function pay(client: LapseClient, order: Order, amount = order.amount): Promise<string> {
  paymentCount += 1;
  const providerPaymentId = `demo-${paymentCount}`;
  const { outcome } = await client.pay(order.id, {
    provider: 'shop',
    providerPaymentId,
    amount,
    currency: 'EUR',
  });
  return outcome;
}

/** Waits until an order is no longer pending. */
async function settled(client: LapseClient, { id }: Order): Promise<Order> {
  for (;;) {
    const order = await client.order(id);
    if (order.status !== 'pending_payment') return order;
    await delay(Math.min(250, Math.max(20, order.remainingMs ?? 0)));
  }
}

async function lapse(client: LapseClient, order: Order): Promise<Ending> {
  const ended = await settled(client, order);
  return { happened: ending(ended), expected: 'cancelled, payment_timeout', order: ended };
}

function ending({ status, cancelReason }: Order): string {
  return cancelReason === null ? status : `${status}, ${cancelReason}`;
}

/** The code of a refusal; `accepted` where there was none. */
async function refusal(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'accepted';
  } catch (error) {
    if (error instanceof LapseError) return error.code;
    throw error;
  }
}

/** Waits until the last of these events is in an order's story; answers those of them that are, in their order. */
async function told(client: LapseClient, { id }: Order, types: readonly string[]): Promise<string> {
  for (;;) {
    const { events } = await client.timeline(id);
    const found = events.map(({ type }) => type).filter((type) => types.includes(type));
    if (found.at(-1) === types.at(-1))
      return found.map((type) => type.replace(/^.*\./, '').replaceAll('_', ' ')).join(', then ');
    await delay(200);
  }
}

const scripts: readonly Script[] = [
  {
    title: 'pays at once',
    async play(client) {
      const order = await buyMug(client, 5000);
      return { happened: await pay(client, order), expected: 'paid' };
    },
  },
  {
    title: 'never pays, has 2 s',
    play: async (client) => lapse(client, await buyMug(client, 2000)),
  },
  {
    title: 'never pays, has 3.5 s',
    play: async (client) => lapse(client, await buyMug(client, 3500)),
  },
  {
    title: 'has 2 s, gets 2 s more, pays in the third',
    async play(client) {
      const order = await buyMug(client, 2000);
      await client.extend(order.id, { byMs: 2000 });
      await delay(3000);
      return { happened: await pay(client, order), expected: 'paid' };
    },
  },
  {
    title: 'has 2 s, gets 2 s more, never pays',
    async play(client) {
      const order = await buyMug(client, 2000);
      return lapse(client, await client.extend(order.id, { byMs: 2000 }));
    },
  },
  {
    title: 'changes their mind',
    async play(client) {
      const order = await buyMug(client, 5000);
      await delay(500);
      return { happened: ending(await client.cancel(order.id)), expected: 'cancelled, customer' };
    },
  },
  {
    title: 'the shop cancels',
    async play(client) {
      const order = await buyMug(client, 5000);
      return { happened: ending(await client.cancel(order.id, 'merchant')), expected: 'cancelled, merchant' };
    },
  },
  {
    title: 'pays after the order lapsed: kept for a person to decide',
    async play(client) {
      const order = await settled(client, await buyMug(client, 1000));
      return { happened: await pay(client, order), expected: 'late', order };
    },
  },
  {
    title: 'pays twice: the second one is listed',
    async play(client) {
      const order = await buyMug(client, 5000);
      const outcomes = [await pay(client, order), await pay(client, order)];
      return { happened: outcomes.join(', then '), expected: 'paid, then duplicate' };
    },
  },
  {
    title: 'pays too little, and the order lapses',
    async play(client) {
      const order = await buyMug(client, 1500);
      const outcome = await pay(client, order, order.amount - 1);
      const ended = await settled(client, order);
      return {
        happened: `${outcome}, ${ended.status}`,
        expected: 'amount_mismatch, cancelled',
        order: ended,
      };
    },
  },
  {
    title: 'tries to cancel what is paid',
    async play(client) {
      const order = await buyMug(client, 5000);
      await pay(client, order);
      return { happened: await refusal(client.cancel(order.id)), expected: 'order_already_paid' };
    },
  },
  {
    title: 'sends the same checkout five times with one key',
    async play(client) {
      const key = `demo-${Date.now()}`;
      const orders = await Promise.all(Array.from({ length: 5 }, () => buyMug(client, 1500, key)));
      const orderCount = new Set(orders.map(({ id }) => id)).size;
      return { happened: `${orderCount} order`, expected: '1 order' };
    },
  },
  {
    title: 'wants the last poster, which somebody holds; it lapses; buys',
    async play(client) {
      const checkout = { currency: 'EUR', items: [{ sku: 'last-poster', quantity: 1, unitAmount }] };
      const holder = await client.checkout({ ...checkout, paymentWindowMs: 1500 });
      const first = await refusal(client.checkout(checkout));
      const lapsed = await settled(client, holder);
      const outcome = await pay(client, await client.checkout(checkout));
      return { happened: `${first}, then ${outcome}`, expected: 'out_of_stock, then paid', order: lapsed };
    },
  },
  {
    title: 'pays on the page of a payment provider',
    async play(client) {
      const order = await buyMug(client, 5000);
      const { url } = await client.openAttempt(order.id, { provider: 'sandbox' });
      // As its button does.
      await (await fetch(url ?? '', { method: 'POST', redirect: 'manual' })).arrayBuffer();
      return { happened: ending(await settled(client, order)), expected: 'paid' };
    },
  },
  {
    title: 'pays on it at the last moment, while the order is being closed',
    async play(client, sandbox) {
      const order = await buyMug(client, 2000);
      const attempt = await client.openAttempt(order.id, { provider: 'sandbox' });
      sandbox.setBehaviour({ whenClosed: 'paid_now' }, attempt.id);
      const happened = await told(client, order, ['order.closing', 'order.cancelled', 'order.paid']);
      return { happened, expected: 'closing, then paid' };
    },
  },
  {
    title: 'never pays; the provider is away at first, then closes the page',
    async play(client, sandbox) {
      const order = await buyMug(client, 2000);
      const attempt = await client.openAttempt(order.id, { provider: 'sandbox' });
      sandbox.setBehaviour({ faultyCalls: ['close'], failCount: 1 }, attempt.id);
      const verdict = await heldFor(client, order);
      const { status } = await settled(client, order);
      const { outcome } = sandbox.pay(attempt.id);
      return {
        happened: `${verdict}, ${status}, page ${outcome}`,
        expected: 'unknown, cancelled, page closed',
      };
    },
  },
  {
    title: 'cancels, and pays on a page that is open still: gets it back',
    async play(client, sandbox) {
      const order = await buyMug(client, 5000);
      const attempt = await client.openAttempt(order.id, { provider: 'sandbox' });
      // The provider is away while it should close the page.
      sandbox.setBehaviour({ faultyCalls: ['close'], failCount: Infinity }, attempt.id);
      await client.cancel(order.id);
      sandbox.pay(attempt.id);
      const happened = await told(client, order, ['payment.refund_due', 'refund.confirmed']);
      return { happened, expected: 'refund due, then confirmed' };
    },
  },
];

/** What the provider says of an order's attempt while the order is held; `nothing` where it is settled before. */
async function heldFor(client: LapseClient, { id }: Order): Promise<string> {
  for (;;) {
    const [[attempt], { status }] = await Promise.all([client.attempts(id), client.order(id)]);
    if (attempt !== undefined && attempt.verdict !== null) return attempt.verdict;
    if (status !== 'pending_payment') return 'nothing';
    await delay(100);
  }
}

/** Plays every story at the same time and tells each when it has ended. */
export async function playStories({ client, sandbox }: Shop, tell: (story: Story) => void): Promise<Story[]> {
  await client.setStock('mug', 1000);
  await client.setStock('last-poster', 1);
  console.log();
  return Promise.all(
    scripts.map(async (script) => {
      const { happened, expected, order } = await script.play(client, sandbox);
      const latenessMs = latenessOf(order);
      const story: Story = { title: script.title, happened, latenessMs, asExpected: happened === expected };
      tell(story);
      return story;
    }),
  );
}

/** How long after its deadline an order lapsed, ms; undefined where it did not. */
export function latenessOf(order: Order | undefined): number | undefined {
  if (order?.cancelReason !== 'payment_timeout' || order.cancelledAt === null) return undefined;
  return Date.parse(order.cancelledAt) - Date.parse(order.deadlineAt ?? '');
}
