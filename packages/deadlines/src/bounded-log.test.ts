import { expect, test, vi } from 'vitest';
import { atMostEvery } from './bounded-log.ts';

test('the first is written at once, later ones once per interval with their number', () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  const lines: [string, number][] = [];
  const write = atMostEvery<string>(1000, (detail, count) => lines.push([detail, count]));
  write('a');
  write('b');
  write('c');
  vi.advanceTimersByTime(1000);
  write('d');
  write('e');
  vi.advanceTimersByTime(5000);
  write('f');
  expect(lines).toEqual([
    ['a', 1],
    ['d', 3],
    ['f', 2],
  ]);
  vi.useRealTimers();
});
