import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatDuration, parseDuration } from './duration.ts';

test.each([
  ['500ms', 500],
  ['90s', 90_000],
  ['30m', 1_800_000],
  ['2h', 7_200_000],
  ['7d', 604_800_000],
  ['0s', 0],
])('%s is %i ms', (text, ms) => {
  expect(parseDuration(text)).toBe(ms);
});

test.each([
  '',
  '30',
  'm',
  '30 m',
  ' 30m',
  '30m\n',
  '1.5h',
  '-1s',
  '1h30m',
  '30M',
  '1w',
  '1e3s',
  '1234567890123s',
])('%j is no duration', (text) => {
  expect(parseDuration(text)).toBeUndefined();
});

test.each([
  [0, '0s'],
  [1, '1ms'],
  [1500, '1500ms'],
  [90_000, '90s'],
  [3_600_000, '1h'],
  [48 * 3_600_000, '2d'],
])('%i ms are written as %s', (ms, text) => {
  expect(formatDuration(ms)).toBe(text);
});

test('every whole number of milliseconds is read as it was written', () => {
  fc.assert(
    fc.property(fc.nat({ max: 90 * 86_400_000 }), (ms) => {
      expect(parseDuration(formatDuration(ms))).toBe(ms);
    }),
  );
});
