import { expect, test } from 'vitest';
import { localPage } from './local-page.ts';

test.each([
  ['/', '/'],
  ['/orders?status=paid&q=a%20b', '/orders?status=paid&q=a%20b'],
  ['/queues/queue/partition%200?status=delayed', '/queues/queue/partition%200?status=delayed'],
  ['', '/'],
  ['orders', '/'],
  ['https://evil.example/', '/'],
  ['//evil.example/', '/'],
  ['///evil.example/', '/'],
  ['/\\evil.example/', '/'],
  ['/\t/evil.example/', '/'],
  ['/.//evil.example/', '/'],
  ['/a/..//evil.example/', '/'],
  ['javascript:alert(1)', '/'],
])('%j leads to %s', (wished, page) => {
  expect(localPage(wished)).toBe(page);
});
