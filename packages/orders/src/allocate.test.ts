import { expect, test } from 'vitest';
import { allocate, type StockLevel } from './allocate.ts';

const stock = (levels: Record<string, [onHand: number | null, held: number]>): Map<string, StockLevel> =>
  new Map(Object.entries(levels).map(([sku, [onHand, held]]) => [sku, { onHand, held }]));
const wish = (wanted: Record<string, number>) =>
  Object.entries(wanted).map(([sku, quantity]) => ({ sku, quantity, unitAmount: 1 }));

test.each([
  ['what is there', stock({ a: [5, 0] }), [{ a: 5 }], ['held'], { a: 5 }],
  ['no more than is there', stock({ a: [5, 0] }), [{ a: 6 }], ['out_of_stock'], {}],
  ['what others do not hold', stock({ a: [5, 3] }), [{ a: 3 }, { a: 2 }], ['out_of_stock', 'held'], { a: 2 }],
  [
    'first come, first served',
    stock({ a: [2, 0] }),
    [{ a: 1 }, { a: 1 }, { a: 1 }],
    ['held', 'held', 'out_of_stock'],
    { a: 2 },
  ],
  [
    'the rest to those behind',
    stock({ a: [2, 0] }),
    [{ a: 3 }, { a: 2 }],
    ['out_of_stock', 'held'],
    { a: 2 },
  ],
  [
    'all or nothing',
    stock({ a: [9, 0], b: [0, 0] }),
    [{ a: 1, b: 1 }, { a: 9 }],
    ['out_of_stock', 'held'],
    { a: 9 },
  ],
  [
    'no end where nobody counts',
    stock({ a: [null, 7] }),
    [{ a: 1_000_000 }, { a: 1 }],
    ['held', 'held'],
    { a: 1_000_001 },
  ],
  ['nothing of what is unknown', stock({ a: [9, 0] }), [{ a: 1, x: 1 }], ['unknown_sku'], {}],
  ['nothing to nobody', stock({ a: [9, 0] }), [], [], {}],
])('gives %s', (_, levels, wishes, outcomes, holds) => {
  const given = allocate(levels, wishes.map(wish));
  expect(given.allocations.map(({ outcome }) => outcome)).toEqual(outcomes);
  expect(Object.fromEntries(given.holds)).toEqual(holds);
});

test('names each SKU that is unknown or short', () => {
  const levels = stock({ a: [1, 0], b: [1, 0], c: [1, 0] });
  expect(allocate(levels, [wish({ a: 2, b: 1, c: 2 }), wish({ a: 9, x: 1, y: 1 })]).allocations).toEqual([
    { outcome: 'out_of_stock', skus: ['a', 'c'] },
    { outcome: 'unknown_sku', skus: ['x', 'y'] },
  ]);
});
