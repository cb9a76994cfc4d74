import calculateSlot from 'cluster-key-slot';
import { describe, expect, test } from 'vitest';
import { concurrencyFor, isOrderId, maxPartitionCount, partitionQueueName } from './catalog.ts';

const partitions = Array.from({ length: maxPartitionCount }, (_, partition) => partition);

test('the names of all partitions stay what they are', () => {
  expect(partitions.map(partitionQueueName)).toMatchInlineSnapshot(`
    [
      "{lapse-0dp}",
      "{lapse-1ga}",
      "{lapse-2ax}",
      "{lapse-3bi}",
      "{lapse-4fb}",
      "{lapse-5di}",
      "{lapse-6bp}",
      "{lapse-7aa}",
      "{lapse-8ad}",
      "{lapse-9bq}",
      "{lapse-10z}",
      "{lapse-11b}",
      "{lapse-12dc}",
      "{lapse-13fh}",
      "{lapse-14dp}",
      "{lapse-15ga}",
      "{lapse-16ds}",
      "{lapse-17fx}",
      "{lapse-18by}",
      "{lapse-19ah}",
      "{lapse-20dy}",
      "{lapse-21fr}",
      "{lapse-22q}",
      "{lapse-23i}",
      "{lapse-24dx}",
      "{lapse-25fs}",
      "{lapse-26q}",
      "{lapse-27i}",
      "{lapse-28ai}",
      "{lapse-29bx}",
      "{lapse-30dj}",
      "{lapse-31fa}",
      "{lapse-32da}",
      "{lapse-33fj}",
      "{lapse-34dr}",
      "{lapse-35fy}",
      "{lapse-36fs}",
      "{lapse-37dx}",
      "{lapse-38ac}",
      "{lapse-39br}",
      "{lapse-40bh}",
      "{lapse-41ay}",
      "{lapse-42fz}",
      "{lapse-43dq}",
      "{lapse-44ad}",
      "{lapse-45bq}",
      "{lapse-46dh}",
      "{lapse-47fc}",
      "{lapse-48fs}",
      "{lapse-49dx}",
      "{lapse-50bj}",
      "{lapse-51nz}",
      "{lapse-52aq}",
      "{lapse-53bd}",
      "{lapse-54ab}",
      "{lapse-55bs}",
      "{lapse-56ap}",
      "{lapse-57ba}",
      "{lapse-58fd}",
      "{lapse-59dk}",
      "{lapse-60az}",
      "{lapse-61bk}",
      "{lapse-62dr}",
      "{lapse-63fy}",
    ]
  `);
});

test('every name is a hash tag, so that all keys of a queue share its slot', () => {
  for (const partition of partitions) {
    const name = partitionQueueName(partition);
    expect(name).toMatch(/^\{lapse-\d+[a-z]+\}$/);
    expect(calculateSlot(`bull:${name}:delayed`)).toBe(calculateSlot(name));
  }
});

describe.each([2, 4, 8, 16, 32, 64])('the first %i partitions', (count) => {
  const slots = partitions.slice(0, count).map((partition) => calculateSlot(partitionQueueName(partition)));

  test('fall into as many equal parts of the slots', () => {
    expect(new Set(slots.map((slot) => Math.floor((slot * count) / 16_384))).size).toBe(count);
  });

  test.each([2, 3, 4, 5, 6])('are spread evenly over %i nodes', (nodeCount) => {
    const perNode = Array.from({ length: nodeCount }, () => 0);
    for (const slot of slots) {
      const node = Math.floor((slot * nodeCount) / 16_384);
      perNode[node] = (perNode[node] ?? 0) + 1;
    }
    expect(Math.max(...perNode) - Math.min(...perNode)).toBeLessThanOrEqual(2);
    if (nodeCount <= 3) expect(Math.max(...perNode) - Math.min(...perNode)).toBeLessThanOrEqual(1);
  });
});

test.each([
  [8, 3, [3, 3, 2]],
  [8, 4, [2, 2, 2, 2]],
  [8, 6, [2, 1, 1, 2, 1, 1]],
  [16, 3, [6, 5, 5]],
  [16, 6, [3, 3, 2, 3, 3, 2]],
])('%i partitions on %i masters with equal parts of the slots lie %j', (count, masterCount, expected) => {
  const masters = partitions
    .slice(0, count)
    .map((partition) => Math.floor((calculateSlot(partitionQueueName(partition)) * masterCount) / 16_384));
  expect(expected.map((_, master) => masters.filter((one) => one === master).length)).toEqual(expected);
});

test.each([-1, 64, 1.5, Number.NaN])('%d is no partition', (partition) => {
  expect(() => partitionQueueName(partition)).toThrow(RangeError);
});

test('a process shares its concurrency among its partitions', () => {
  expect([0, 1, 2, 4, 8, 64, 1000].map(concurrencyFor)).toEqual([500, 500, 500, 250, 125, 16, 16]);
});

test.each([
  ['0195c7a4-8b5e-7a3c-9f10-3b1f6d2e4c5a', true],
  ['0195C7A4-8B5E-7A3C-9F10-3B1F6D2E4C5A', false],
  ['42', false],
  ['meta', false],
  ['', false],
  [undefined, false],
])('%s as an order id: %s', (id, valid) => {
  expect(isOrderId(id)).toBe(valid);
});
