import { expect, test } from 'vitest';

import { planOrders } from './plan.ts';

const seed = 'plan';

test('the same seed plans the same orders, and another one others', () => {
  expect(planOrders(seed, 50, 1000)).toEqual(planOrders(seed, 50, 1000));
  expect(planOrders('other', 50, 1000)).not.toEqual(planOrders(seed, 50, 1000));
});

test('a population is as it is wished for', () => {
  const windowMs = { least: 2000, most: 3000 };
  const planned = planOrders(seed, 2000, 1000, { attemptShare: 0.9, windowMs, isStockScarce: false });
  const share = planned.filter(({ way }) => way === 'attempt').length / planned.length;
  expect(share).toBeCloseTo(0.9, 1);
  const windows = planned.map(({ paymentWindowMs }) => paymentWindowMs);
  expect(Math.min(...windows)).toBeGreaterThanOrEqual(windowMs.least);
  expect(Math.max(...windows)).toBeLessThanOrEqual(windowMs.most);
  expect(planned.flatMap(({ items }) => items).filter(({ sku }) => sku === 'scarce')).toEqual([]);
  expect(new Set(planned.map(({ story }) => story)).size).toBe(10);
});

test('who pays how changes nothing else about an order', () => {
  const reported = planOrders(seed, 100, 1000);
  const attempted = planOrders(seed, 100, 1000, { attemptShare: 1 });
  expect(attempted.map(({ way: _, ...rest }) => rest)).toEqual(reported.map(({ way: _, ...rest }) => rest));
});
