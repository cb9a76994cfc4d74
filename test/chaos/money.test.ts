import { expect, test } from 'vitest';

import { moneyLines } from './money.ts';

test('the counts of a money run are told in lines', () => {
  const lines = moneyLines({
    orderCount: 10_000,
    counts: {
      orders: { paid: 6000, payment_timeout: 4000 },
      attempts: { paid: 6100 },
      captures: { taken: 6100, ofCancelledOrders: 40 },
      payments: { paid: 6000, amount_mismatch: 100 },
      refunds: {},
      returned: { once: 99, twice: 0 },
      workList: { refund_failed: 1 },
      told: { payment_reminder: 5000, reinstated: 7 },
      providers: {
        calls: 10_000,
        failedCalls: 1600,
        lostAnswers: 400,
        wrongCalls: 0,
        webhooksTold: 1000,
        webhooksLost: 51,
        webhooksDoubled: 99,
        webhooksReordered: 0,
        webhooksDelivered: 1048,
        webhooksGivenUp: 0,
      },
    },
    failures: {},
    breaches: [],
    tookMs: 1,
  });
  expect(lines).toEqual([
    'orders          10,000, paid 6,000, payment timeout 4,000',
    'attempts        paid 6,100',
    'captures        6,100, 40 of them for orders cancelled now',
    'payments        paid 6,000, amount mismatch 100',
    'refunds         none',
    'returned        99 once, 0 twice',
    'work list       refund failed 1',
    'told            payment reminder 5,000, reinstated 7',
    'webhooks        1,000 to tell, lost 51 (5.1 %), doubled 99 (9.9 %), reordered 0 (0 %), delivered 1,048, given up 0',
    'provider calls  10,000, failed 1,600 (16 %), answers lost 400 (4 %)',
    'failed requests none',
  ]);
});
