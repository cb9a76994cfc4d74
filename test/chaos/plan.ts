import { between, oneOf, randomOf, type Random } from './random.ts';

/** What a customer does with an order. */
export type Story =
  | 'pays'
  | 'lapses'
  | 'extends, lapses'
  | 'extends, pays'
  | 'cancels'
  | 'pays late'
  /** Within 150 ms of the deadline, before or behind it. */
  | 'pays at the deadline'
  /** Tells the same capture twice, with two keys. */
  | 'tells twice'
  /** A second capture for the same order. */
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

/** Shortest and longest payment window, ms. */
const windowMs = { least: 1500, most: 8000 };

/**
 * Plans order `n` of a run: the same for the same seed, whatever came before.
 *
 * @param atMs when it is placed
 */
export function planOrder(seed: string, n: number, atMs: number): PlannedOrder {
  const random = randomOf(`${seed}/${n}`);
  const items = drawItems(random);
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
export function planOrders(seed: string, count: number, withinMs: number): PlannedOrder[] {
  return Array.from({ length: count }, (_, n) => planOrder(seed, n, (n / count) * withinMs));
}

function drawItems(random: Random): PlannedOrder['items'] {
  const chosen = new Set(Array.from({ length: between(random, 1, 3) }, () => oneOf(random, skus)));
  return Array.from(chosen, (sku) => ({
    sku,
    quantity: between(random, 1, 3),
    unitAmount: between(random, 100, 5000),
  }));
}
