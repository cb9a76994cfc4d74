/** A way to break Lapse on purpose, and the tests that must notice. */
export interface Mutant {
  readonly name: string;
  readonly file: string;
  /** Text of the file, and what stands there instead. Each must be found exactly once. */
  readonly changes: readonly (readonly [found: string, instead: string])[];
  readonly tests: readonly string[];
}

/** Each undoes one thing that the design leans on. */
export const mutants: readonly Mutant[] = [
  {
    name: 'expiry does not ask whether the order is still pending',
    file: 'packages/orders/src/expire.ts',
    changes: [
      ["when not (${isPending}) then 'settled'", "when false then 'settled'"],
      ["for_due = 'cancelled' and ${isPending} and ${isDue}", "for_due = 'cancelled' and ${isDue}"],
    ],
    tests: ['packages/orders/src/race.test.ts'],
  },
  {
    name: 'expiry is 5 ms early',
    file: 'packages/orders/src/expire.ts',
    changes: [
      [
        "const isDue = 'o.expire_at <= clock.at';",
        'const isDue = "o.expire_at <= clock.at + interval \'5 ms\'";',
      ],
    ],
    tests: ['packages/orders/src/model/model.test.ts'],
  },
  {
    name: 'customers are reminded while the clock of their order stands still',
    file: 'packages/orders/src/remind.ts',
    changes: [[" or ${isFrozen} then 'none'", " then 'none'"]],
    tests: ['packages/orders/src/remind.test.ts'],
  },
  {
    name: 'an extension leaves the reminder where it was',
    file: 'packages/orders/src/extend.ts',
    changes: [["        remind_at = ${nextReminder('$2::timestamptz', 'clock_timestamp()')},\n", '']],
    tests: ['packages/orders/src/remind.test.ts'],
  },
  {
    name: 'the sweeper waits for locked rows',
    file: 'packages/orders/src/expire.ts',
    changes: [
      ['limit $1\n      for no key update of o skip locked', 'limit $1\n      for no key update of o'],
    ],
    tests: ['packages/orders/src/expire.test.ts'],
  },
  {
    name: 'stock is released in another order than it is held',
    file: 'packages/orders/src/release.ts',
    changes: [['order by sku for no key update', 'order by sku desc for no key update']],
    tests: ['packages/orders/src/deadlock.test.ts'],
  },
  {
    name: 'holds are released twice',
    file: 'packages/orders/src/release.ts',
    changes: [['held = s.held - released.quantity', 'held = s.held - 2 * released.quantity']],
    tests: ['packages/orders/src/cancel.test.ts'],
  },
  {
    name: 'a retry does not look for its own order',
    file: 'packages/orders/src/checkout.ts',
    changes: [['if (retry) ids.push(', 'if (retry && ids.length < 0) ids.push(']],
    tests: ['packages/orders/src/lost-connection.test.ts'],
  },
  {
    name: 'a batch that is placed at once takes keys whose twin is running',
    file: 'packages/orders/src/idempotency.ts',
    changes: [["current_setting('lapse.keys_are_claimed')::boolean", 'true']],
    tests: ['packages/orders/src/idempotency.test.ts'],
  },
  {
    name: 'a batch that is placed at once takes keys that were used',
    file: 'packages/orders/src/idempotency.ts',
    changes: [
      ['and not exists (select from ${keptAmong', 'and (true or not exists (select from ${keptAmong'],
      ['keys)})`;', 'keys)}))`;'],
    ],
    tests: ['packages/orders/src/idempotency.test.ts'],
  },
  {
    name: 'any amount pays',
    file: 'packages/orders/src/payments.ts',
    changes: [["order.status === 'pending_payment' && isExact)", "order.status === 'pending_payment')"]],
    tests: ['packages/orders/src/pay.test.ts'],
  },
  {
    name: 'expiry does not take the freeze lock',
    file: 'packages/orders/src/freeze.ts',
    changes: [['pg_advisory_xact_lock_shared(${freezeLock})', '${freezeLock}']],
    tests: ['packages/orders/src/freeze.test.ts'],
  },
  {
    name: 'a statement waits for a lock when its client has left',
    file: 'packages/runtime/src/postgres.ts',
    changes: [
      ['; set local lock_timeout = ${lockTimeoutMs}', ''],
      ['set local statement_timeout = ${queryTimeoutMs - 1000}', 'set local statement_timeout = 0'],
    ],
    tests: ['packages/orders/src/held-rows.test.ts'],
  },
  {
    name: 'the brake never trips',
    file: 'packages/orders/src/expire.ts',
    changes: [
      [
        "case when ${isSuspicious('$3::int', '$4::boolean')} then",
        "case when ${isSuspicious('$3::int', '$4::boolean')} and false then",
      ],
    ],
    tests: ['packages/orders/src/brake.test.ts'],
  },
  {
    name: 'expiry does not ask whether an attempt is open',
    file: 'packages/orders/src/expire.ts',
    changes: [["when o.open_attempt_count = 0 then 'due'", "when true then 'due'"]],
    tests: ['packages/orders/src/model/model.test.ts'],
  },
  {
    name: 'expiry asks of a row from before its wait whether an attempt is open',
    file: 'packages/orders/src/expire.ts',
    changes: [
      ['and ${isPending} and ${isDue}\n', 'and ${isPending} and ${isDue} and o.open_attempt_count = 0\n'],
    ],
    tests: ['packages/orders/src/attempts.test.ts'],
  },
  {
    name: 'an attempt is opened behind the fence',
    file: 'packages/orders/src/attempts.ts',
    changes: [['locked.isFenced || (locked.isOver', '(locked.isOver']],
    tests: ['packages/orders/src/freeze-scope.test.ts'],
  },
  {
    name: 'a payment leaves its attempt open',
    file: 'packages/orders/src/pay-record.ts',
    changes: [['if (ended.size > 0)', 'if (ended.size < 0)']],
    tests: ['packages/orders/src/model/model.test.ts'],
  },
  {
    name: 'late money goes back on a mere report',
    file: 'packages/orders/src/payments.ts',
    changes: [['return verified ? { does', 'return verified || lateMoney ? { does']],
    tests: ['packages/orders/src/model/model.test.ts'],
  },
  {
    name: 'what a customer cancelled is reinstated',
    file: 'packages/orders/src/payments.ts',
    changes: [["order.cancelReason === 'payment_timeout'", "order.status === 'cancelled'"]],
    tests: ['packages/orders/src/money.test.ts'],
  },
  {
    name: 'two processes read an orderless capture at once',
    file: 'packages/orders/src/pay.ts',
    changes: [
      [
        "      -- What stands without an order is kept still by no order's lock.\n      for no key update\n",
        '',
      ],
    ],
    tests: ['packages/orders/src/money.test.ts'],
  },
  {
    name: 'another amount than was reported is shown to nobody',
    file: 'packages/orders/src/pay-decide.ts',
    changes: [['now.amount !== was.amount || now.currency', 'now.currency']],
    tests: ['packages/orders/src/model/model.test.ts'],
  },
  {
    name: 'a person decides about the same money twice',
    file: 'packages/orders/src/work.ts',
    changes: [['if (!locked.isListed) return', "if (!locked.isListed && locked.outcome === 'none') return"]],
    tests: ['packages/orders/src/model/model.test.ts'],
  },
  {
    name: 'a freeze of some orders holds all',
    file: 'packages/orders/src/freeze.ts',
    changes: [["when 'frozen' then ${isInScope(ofF)}", "when 'frozen' then true"]],
    tests: ['packages/orders/src/model/model.test.ts'],
  },
  {
    name: 'a rebuild does not notice that Redis was lost again',
    file: 'packages/orders/src/rebuild.ts',
    changes: [['hasBegun && (await ports.isWhole(rebuild))', 'hasBegun']],
    tests: ['packages/orders/src/rebuild.test.ts'],
  },
  {
    name: 'a job that is not due completes',
    file: 'packages/deadlines/src/fire.ts',
    changes: [['return delayAgain(job, token, fire.remainingMs, notDelayed);', 'return fire.answer;']],
    tests: ['packages/deadlines/src/worker.test.ts'],
  },
  {
    name: 'a job that is not due is delayed to its old instant',
    file: 'packages/deadlines/src/delay-again.ts',
    changes: [
      [
        'await job.moveToDelayed(Date.now() + Math.max(leastWaitMs, Math.ceil(waitMs)), token);',
        'await job.moveToDelayed(waitMs < leastWaitMs ? Date.now() : job.timestamp + job.delay, token);',
      ],
    ],
    tests: ['packages/deadlines/src/worker.test.ts'],
  },
  {
    name: 'a checkout does not arm',
    file: 'apps/api/src/routes/orders.ts',
    changes: [["await armed(answer.order, deadlines, 'arm');", '']],
    tests: ['test/e2e/main-job.test.ts'],
  },
  {
    name: 'there is no sweeper',
    file: 'apps/worker/src/main.ts',
    changes: [['      sweep,\n', '']],
    tests: ['test/e2e/redis-faults.test.ts'],
  },
];
