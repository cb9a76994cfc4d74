import { expect, test } from 'vitest';

import { alternate, atLeast, atMost, medianOf, ratio, readable, tableOf, type Contender } from './harness.ts';

const quiet = { onProgress: () => undefined };

/** Measures the given figures, one after the other. */
function scripted(name: string, measured: readonly number[], heard: string[] = []): Contender {
  const left = [...measured];
  return {
    name,
    measure() {
      heard.push(name);
      return Promise.resolve({ 'orders/s': left.shift() ?? NaN });
    },
  };
}

test('contenders take turns, and the first round of each does not count', async () => {
  const heard: string[] = [];
  const contenders = [scripted('a', [999, 1, 3], heard), scripted('b', [999, 2, 4], heard)];
  const series = await alternate(contenders, { ...quiet, rounds: 2 });
  expect(heard.join(' ')).toBe('a b a b a b');
  expect(series.map(({ rounds }) => rounds.map((one) => one['orders/s']))).toEqual([
    [1, 3],
    [2, 4],
  ]);
});

test('a ratio is one of medians: a round that went wrong does not move it', async () => {
  const contenders = [scripted('a', [0, 50, 60, 9000]), scripted('b', [0, 9, 10, 10])];
  const [a, b] = await alternate(contenders, { ...quiet, rounds: 3 });
  expect(a && b && ratio(a, b, 'orders/s')).toBe(6);
  expect(() => a && medianOf(a, 'orders/h')).toThrow('a measured no orders/h');
});

test('the median of an even number lies between the two in the middle', async () => {
  const [series] = await alternate([scripted('a', [0, 4, 1, 3, 2])], { ...quiet, rounds: 4 });
  expect(series?.spread).toEqual({ 'orders/s': { median: 2.5, min: 1, max: 4 } });
});

test('a table shows medians with their range, and carries every round', async () => {
  const series = await alternate([scripted('a', [0, 1200, 1000, 1100])], { ...quiet, rounds: 3 });
  expect(tableOf('of a', series)).toEqual({
    title: 'of a',
    lines: [{ '': 'a', 'orders/s': '1,100 (1,000–1,200)' }],
    series,
  });
});

test('what was promised is kept from the promised figure on', () => {
  expect([atLeast('ratio', 5, 5), atLeast('ratio', 5, 4.99)].map(({ isKept }) => isKept)).toEqual([
    true,
    false,
  ]);
  expect([atMost('p99', 15, 15), atMost('p99', 15, 15.1)].map(({ isKept }) => isKept)).toEqual([true, false]);
  expect(atLeast('ratio', 5, NaN).isKept).toBe(false);
});

test('numbers are shown as people read them', () => {
  expect([12_345.6, 99.94, 5.318, 3, 0.0341, 0, NaN].map(readable)).toEqual([
    '12,346',
    '99.9',
    '5.32',
    '3',
    '0.034',
    '0',
    '–',
  ]);
});
