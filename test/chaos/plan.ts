import { between, oneOf, randomOf, type Random } from './random.ts';

/** What a customer does with an order. */
export type Story =
  | 'pays'
  | 'lapses'
  | 'extends, lapses'
  | 'extends, pays'
  /** Every second one pays at the same moment. */
  | 'cancels'
  | 'pays late'
  /** Within 150 ms of the deadline, before or behind it. */
  | 'pays at the deadline'
  /** Tells the same capture twice, with two keys; loads the page of the provider twice. */
  | 'tells twice'
  /** A second capture for the same order, at another provider. */
  | 'pays twice'
  /** A wrong amount first; every second one then the right one. */
  | 'pays wrong';

/** An order that will be placed, and what will happen to it. */
export interface PlannedOrder {
  /** The order's reference and, in each call, the root of its Idempotency-Key. */
  readonly reference: string;
  /** When it is placed, ms after the beginning. */
  readonly atMs: number;
  readonly story: Story;
  readonly paymentWindowMs: number;
  readonly items: readonly { readonly sku: string; readonly quantity: number; readonly unitAmount: number }[];
  readonly amount: number;
  /** When the customer acts, as a share of the window. */
  readonly actsAt: number;
  /** How much more time it gets where its story says so, ms. */
  readonly extendByMs: number;
  /** By which policies.json decides what late money does: it goes back, pays after all where it can, or waits for a person. */
  readonly paymentMethod: (typeof paymentMethods)[number];
  /** How the customer pays: by a payment that the shop reports, or on the page of a payment provider. */
  readonly way: 'report' | 'attempt';
  /** Whether the money is on its way for a while, where the customer pays at a provider. */
  readonly paysSlowly: boolean;
  /** Decides what a story leaves open. */
  readonly coin: boolean;
  /** Whether each call is made again with the same key, at another api. */
  readonly replays: boolean;
  /** The api that is asked first. */
  readonly api: number;
}

/** What is on sale: enough of everything but the last, which is soon sold out. */
export const stockAtStart: ReadonlyMap<string, number> = new Map([
  ...Array.from({ length: 12 }, (_, n): [string, number] => [`sku-${n}`, 1_000_000]),
  ['scarce', 40],
]);

const skus = [...stockAtStart.keys()];
const plentiful = skus.filter((sku) => sku !== 'scarce');

const paymentMethods = ['card', 'bank_transfer', 'invoice'] as const;

/** Out of 100 orders. */
const shares: Readonly<Record<Story, number>> = {
  pays: 20,
  lapses: 26,
  'extends, lapses': 8,
  'extends, pays': 8,
  cancels: 8,
  'pays late': 7,
  'pays at the deadline': 6,
  'tells twice': 6,
  'pays twice': 5,
  'pays wrong': 6,
};

const stories = Object.entries(shares).flatMap(([story, count]) => Array<Story>(count).fill(story as Story));

/** What a population is like. */
export interface Population {
  /** Of its orders, how many are to be paid at a payment provider. Default 0. */
  readonly attemptShare?: number;
  /** Shortest and longest payment window, ms. Default: some seconds. */
  readonly windowMs?: { readonly least: number; readonly most: number };
  /** Whether some find their goods sold out. Default true. */
  readonly isStockScarce?: boolean;
}

/**
 * Plans order `n` of a run: the same for the same seed, whatever came before.
 *
 * @param atMs when it is placed
 */
export function planOrder(
  seed: string,
  n: number,
  atMs: number,
  { attemptShare = 0, windowMs = { least: 1500, most: 8000 }, isStockScarce = true }: Population = {},
): PlannedOrder {
  const random = randomOf(`${seed}/${n}`);
  const items = drawItems(random, isStockScarce ? skus : plentiful);
  return {
    reference: `${seed}/${n}`,
    atMs,
    story: oneOf(random, stories),
    paymentWindowMs: between(random, windowMs.least, windowMs.most),
    items,
    amount: items.reduce((sum, { quantity, unitAmount }) => sum + quantity * unitAmount, 0),
    actsAt: 0.1 + 0.6 * random(),
    extendByMs: between(random, 1000, 3000),
    replays: random() < 0.15,
    api: between(random, 0, 1),
    way: random() < attemptShare ? 'attempt' : 'report',
    paysSlowly: random() < 0.1,
    coin: random() < 0.5,
    paymentMethod: oneOf(random, paymentMethods),
  };
}

/** An order that nobody pays, to see whether deadlines are kept again. */
export function planProbe(seed: string, n: number): PlannedOrder {
  return {
    ...planOrder(`${seed}/probe`, n, 0),
    story: 'lapses',
    paymentWindowMs: 1000,
    items: [{ sku: 'sku-0', quantity: 1, unitAmount: 100 }],
    amount: 100,
    replays: false,
  };
}

/** Plans a population that arrives at a steady rate. */
export function planOrders(
  seed: string,
  count: number,
  withinMs: number,
  population?: Population,
): PlannedOrder[] {
  return Array.from({ length: count }, (_, n) => planOrder(seed, n, (n / count) * withinMs, population));
}

function drawItems(random: Random, from: readonly string[]): PlannedOrder['items'] {
  const chosen = new Set(Array.from({ length: between(random, 1, 3) }, () => oneOf(random, from)));
  return Array.from(chosen, (sku) => ({
    sku,
    quantity: between(random, 1, 3),
    unitAmount: between(random, 100, 5000),
  }));
}
