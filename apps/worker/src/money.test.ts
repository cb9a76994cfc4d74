import { createMetrics } from '@lapse/runtime';
import { expect, test } from 'vitest';
import { watchMoney } from './money.ts';

test('money that is on its way, or waits for a person, is told of; without the database nothing is', async () => {
  const metrics = createMetrics();
  let isDown = false;
  const answer =
    <Answer>(value: Answer) =>
    (): Promise<Answer> =>
      isDown ? Promise.reject(new Error('down')) : Promise.resolve(value);
  const orders = {
    openRefunds: answer({ due: 2, sent: 3, oldestMs: 4000 }),
    workSize: answer({ count: 5, oldestMs: 6000 }),
    attemptAlarms: answer({ unknown: 7, processing: 8 }),
  };
  watchMoney({ orders, metrics });
  const scrape = async () => {
    const lines = (await metrics.metrics()).split('\n');
    return lines.filter((line) => line.startsWith('lapse_')).toSorted();
  };
  const all = [
    'lapse_attempts_held{verdict="processing"} 8',
    'lapse_attempts_held{verdict="unknown"} 7',
    'lapse_oldest_refund_ms 4000',
    'lapse_oldest_work_ms 6000',
    'lapse_refunds_open{state="due"} 2',
    'lapse_refunds_open{state="sent"} 3',
    'lapse_work_list_payments 5',
  ];
  expect(await scrape()).toEqual(all);
  isDown = true;
  expect(await scrape()).toEqual([]);
  isDown = false;
  expect(await scrape()).toEqual(all);
});
