import { expect, test } from 'vitest';
import { LoginLimiter, network } from './limiter.ts';

const minuteMs = 60_000;

test('an address has ten tries in ten minutes, then it waits', () => {
  const limiter = new LoginLimiter();
  for (let n = 0; n < 10; n += 1) expect(limiter.take('192.0.2.1', n)).toBe(0);

  expect(limiter.take('192.0.2.1', minuteMs)).toBe(9 * minuteMs);
  expect(limiter.take('192.0.2.2', minuteMs)).toBe(0);
  expect(limiter.take('192.0.2.1', 10 * minuteMs)).toBe(0);
});

test('who knows the password begins anew', () => {
  const limiter = new LoginLimiter();
  for (let n = 0; n < 9; n += 1) limiter.take('192.0.2.1', n);
  limiter.forgive('192.0.2.1');

  for (let n = 0; n < 10; n += 1) expect(limiter.take('192.0.2.1', n)).toBe(0);
});

test('it remembers 10,000 addresses at most', () => {
  const limiter = new LoginLimiter();
  for (let n = 0; n < 10_100; n += 1) limiter.take(`address ${n}`);

  expect(limiter.size).toBe(10_000);
});

test.each([
  ['192.0.2.1', '192.0.2.1'],
  ['::ffff:192.0.2.1', '::ffff:192.0.2.1'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
  ['2001:db8:1:2::9', '2001:db8:1:2'],
  ['2001:db8::9', '2001:db8:0:0'],
  ['::1', '0:0:0:0'],
])('%s counts as %s', (address, expected) => {
  expect(network(address)).toBe(expected);
});
