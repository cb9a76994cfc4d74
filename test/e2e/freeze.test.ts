import type { Order, Timeline } from '@lapse/client';
import { createTestDatabase, inParallel, type RunningApp, waitFor } from '@lapse/devstack';
import { describe, expect, inject, test } from 'vitest';

import {
  countEvents,
  lapse,
  metric,
  runScript,
  startFleet,
  untilNonePending,
  type Ended,
  type Fleet,
} from './fleet.ts';

const uuid = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/;

/** Runs one that must succeed; its output. */
async function succeed(fleet: { databaseUrl: string }, ...args: readonly string[]): Promise<string> {
  const { code, output } = await lapse(fleet, ...args);
  expect({ code, output }).toEqual({ code: 0, output });
  return output;
}

const place = ({ client }: Fleet, paymentWindowMs: number): Promise<Order> =>
  client.checkout({
    currency: 'EUR',
    items: [{ sku: 'mug', quantity: 1, unitAmount: 100 }],
    paymentWindowMs,
  });

/** Jobs that fired in any worker and were told one of these answers. */
async function countFires(workers: readonly RunningApp[], ...answers: readonly string[]): Promise<number> {
  const counts = await Promise.all(
    workers.flatMap((worker) =>
      answers.map((answer) => metric(worker, `lapse_deadline_fires_total{answer="${answer}"}`)),
    ),
  );
  return counts.reduce((sum, count) => sum + count, 0);
}

const typesOf = ({ events }: Timeline): string[] => events.map(({ type }) => type);

describe('a freeze', () => {
  test('stops the clock; the thaw gives every order its time back, its job with it, and then it lapses', async () => {
    const fleet = await startFleet({ workerCount: 2 });
    try {
      const { client, database } = fleet;
      await client.setStock('mug', 100);
      const before = await inParallel(20, 20, () => place(fleet, 1500));
      const frozen = await succeed(fleet, 'freeze', '--reason', 'the bank is down');
      const freezeId = uuid.exec(frozen)?.[0] ?? '';
      expect(frozen).toContain(`lapse thaw ${freezeId}`);
      const within = await inParallel(20, 20, () => place(fleet, 1000));
      const lasting = await place(fleet, 60_000);
      const paid = await place(fleet, 1000);

      // Every job fires, and is told to let go.
      await waitFor(async () => (await countFires(fleet.workers, 'frozen')) >= 20, {
        what: 'the jobs to find the clock stopped',
        timeoutMs: 20_000,
      });
      await waitFor(async () => (await client.order(within[19]?.id ?? '')).remainingMs === 0, {
        what: 'the last deadline',
      });
      const { rows: held } = await database.query<{ count: number }>(
        "select count(*) as count from orders where status = 'pending_payment'",
      );
      expect((held[0]?.count ?? 0) + (await cancelledBefore(fleet, freezeId))).toBe(42);
      expect(await succeed(fleet, 'freezes')).toMatch(new RegExp(`^${freezeId} +frozen .* the bank is down`));
      expect(
        await client.pay(paid.id, {
          provider: 'shop',
          providerPaymentId: 'f-1',
          amount: 100,
          currency: 'EUR',
        }),
      ).toMatchObject({ outcome: 'paid' });

      const firedBefore = await countFires(fleet.workers, 'cancelled', 'settled');
      const thawed = await succeed(fleet, 'thaw');
      expect(thawed).toContain(`Thawing ${freezeId}`);
      expect(thawed).toContain('Every deadline has moved');
      expect(await succeed(fleet, 'freezes')).toMatch(new RegExp(`^${freezeId} +done `));
      const { rows: freezes } = await database.query<{ frozenAt: Date; thawingAt: Date }>(
        'select frozen_at as "frozenAt", thawing_at as "thawingAt" from freezes',
      );
      const [{ frozenAt, thawingAt } = { frozenAt: new Date(0), thawingAt: new Date(0) }] = freezes;
      const wasMoved = async ({ id }: Order): Promise<boolean> =>
        typesOf(await client.timeline(id)).includes('order.thawed');
      for (const order of [...before, ...within, lasting]) {
        if (!(await wasMoved(order))) continue;
        const stoodMs = thawingAt.getTime() - Math.max(frozenAt.getTime(), Date.parse(order.createdAt));
        const moved = await client.order(order.id);
        expect(Date.parse(moved.deadlineAt ?? '') - Date.parse(order.deadlineAt ?? '')).toBe(stoodMs);
      }
      const { deadlineAt } = await client.order(lasting.id);
      await waitFor(
        async () => {
          // Moving a job is exact to a millisecond or two: BullMQ counts from now.
          const { job } = await client.timeline(lasting.id);
          return Math.abs(Date.parse(job?.firesAt ?? '') - Date.parse(deadlineAt ?? '')) < 50;
        },
        { what: 'the job to stand at the new deadline' },
      );

      await waitFor(
        async () =>
          (await client.orders({ status: 'pending_payment' })).data.every(({ id }) => id === lasting.id),
        { what: 'the others to lapse', timeoutMs: 20_000 },
      );
      const lapsed = await Promise.all(within.map(({ id }) => client.order(id)));
      for (const order of lapsed) {
        expect(order).toMatchObject({ status: 'cancelled', cancelReason: 'payment_timeout' });
        expect(Date.parse(order.cancelledAt ?? '')).toBeGreaterThanOrEqual(
          Date.parse(order.deadlineAt ?? ''),
        );
      }
      const stories = await Promise.all(within.map(({ id }) => client.timeline(id)));
      for (const story of stories)
        expect(typesOf(story)).toEqual(['order.placed', 'order.thawed', 'order.cancelled']);
      // Their first jobs had ended: these are the ones that the thaw armed. The sweeper may have been before them.
      const firedAgain = async (): Promise<boolean> =>
        (await countFires(fleet.workers, 'cancelled', 'settled')) - firedBefore >= within.length;
      expect(await waitFor(firedAgain, { what: 'their new jobs to fire' })).toBe(true);
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  }, 60_000);

  test('whose thaw loses its worker half way is thawed to the end by another', async () => {
    const orderCount = 3000;
    const fleet = await startFleet({ workerCount: 1 });
    try {
      const { client, database } = fleet;
      await client.setStock('mug', orderCount + 1);
      await succeed(fleet, 'freeze', '--reason', 'a fire drill');
      const orders = await inParallel(orderCount, 64, (n) => place(fleet, 1000 + (n % 500)));
      const last = await place(fleet, 3_600_000);
      const [first] = fleet.workers;
      // Whoever moves the last page must wait for this row, and has moved the pages before it.
      const stone = await database.connect();
      let thaw: Promise<Ended>;
      try {
        await stone.query('begin');
        await stone.query('set local idle_in_transaction_session_timeout = 0');
        await stone.query('select from orders where id = $1 for update', [last.id]);
        thaw = lapse(fleet, 'thaw');
        await waitFor(async () => isMovingBlocked(fleet), { what: 'the last page', timeoutMs: 20_000 });
        first?.kill('SIGKILL');
        await first?.exited;
        const movedByFirst = await movedCount(fleet);
        expect(movedByFirst).toBeGreaterThan(0);
        expect(movedByFirst).toBeLessThan(orderCount + 1);
      } finally {
        stone.release(true);
      }
      await fleet.add('worker');
      expect(await thaw).toMatchObject({ code: 0 });
      expect(await movedCount(fleet)).toBe(orderCount + 1);

      await client.cancel(last.id);
      await untilNonePending(database, 30_000);
      const { rows } = await database.query(
        `select count(*) as count from orders
         where cancel_reason = 'payment_timeout' and cancelled_at >= expire_at and id = any ($1::uuid[])`,
        [orders.map(({ id }) => id)],
      );
      expect(rows).toEqual([{ count: orderCount }]);
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  }, 90_000);
});

/** Orders that a thaw has moved; one that was moved twice counts twice. */
const movedCount = (fleet: Fleet): Promise<number> => countEvents(fleet, 'order.thawed');

/** Whether a worker that moves deadlines waits for a row. */
async function isMovingBlocked({ database }: Fleet): Promise<boolean> {
  const { rows } = await database.query(
    `select from pg_stat_activity
     where datname = current_database() and wait_event_type = 'Lock' and query like '%with thaw as%'`,
  );
  return rows.length > 0;
}

/** Orders that lapsed before the clock was stopped. */
async function cancelledBefore({ database }: Fleet, freezeId: string): Promise<number> {
  const { rows } = await database.query<{ count: number }>(
    'select count(*) as count from orders o, freezes f where f.id = $1 and o.cancelled_at <= f.frozen_at',
    [freezeId],
  );
  return rows[0]?.count ?? 0;
}

describe('lapse', () => {
  test('order tells the story of an order', async () => {
    const fleet = await startFleet({ workerCount: 0 });
    try {
      const { client } = fleet;
      await client.setStock('mug', 10);
      const order = await place(fleet, 60_000);
      await client.extend(order.id, { byMs: 5000 });
      const payment = { provider: 'shop', providerPaymentId: 'p-1', amount: 99, currency: 'EUR' };
      await client.pay(order.id, payment);
      await client.pay(order.id, { ...payment, providerPaymentId: 'p-2', amount: 100 });
      const story = await succeed(fleet, 'order', order.id.toUpperCase());
      expect(story).toContain(`${order.id}  paid`);
      expect(story).toContain('item       1 × mug at 100');
      expect(story).toContain('payment    99 EUR, shop p-1: amount_mismatch');
      expect(story).toContain('payment    100 EUR, shop p-2: paid');
      const told = [...story.matchAll(/^ +\d{4}-\S+Z +(\S+) +api /gm)].map(([, type]) => type);
      expect(told).toEqual(['order.placed', 'order.extended', 'payment.listed', 'order.paid']);
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  });

  test('migrate makes the schema, and again finds nothing to do, also from several places at once', async () => {
    const empty = await createTestDatabase({ adminUrl: inject('databaseUrl') });
    const fleet = { databaseUrl: empty.url };
    try {
      const outputs = await Promise.all([1, 2, 3].map(() => succeed(fleet, 'migrate')));
      expect(outputs.filter((output) => output.startsWith('Applied '))).toHaveLength(1);
      expect(await succeed(fleet, 'migrate')).toBe('The schema is up to date.');
      expect(await succeed(fleet, 'freezes')).toBe('There never was a freeze.');
    } finally {
      await empty.drop();
    }
  });

  describe('says in a line what is wrong', () => {
    test.each([
      [
        'an order that does not exist',
        ['order', '01890000-0000-7000-8000-000000000000'],
        'There is no order 01890000-0000-7000-8000-000000000000',
      ],
      ['an id that is none', ['order', '42'], 'There is no order 42. Order ids are UUIDs.'],
      ['a thaw where nothing is frozen', ['thaw'], 'Nothing is frozen.'],
      ['a thaw of an unknown freeze', ['thaw', 'x'], 'There is no freeze x'],
      ['a freeze without a reason', ['freeze'], "required option '--reason <text>' not specified"],
      ['a command that does not exist', ['frezze'], "unknown command 'frezze'"],
    ])('%s', async (_, args, line) => {
      const own = await createTestDatabase({
        adminUrl: inject('databaseUrl'),
        template: inject('templateDatabase'),
      });
      try {
        const { code, output } = await lapse({ databaseUrl: own.url }, ...args);
        expect(code).toBe(1);
        expect(output).toContain(line);
        expect(output).not.toMatch(/^ +at /m);
      } finally {
        await own.drop();
      }
    });

    test.each(['migrate', 'freezes', 'thaw'])('%s without DATABASE_URL', async (command) => {
      const { code, output } = await runScript('apps/cli/src/main.ts', [command], {});
      expect(code).toBe(1);
      expect(output).toContain('DATABASE_URL must be a postgres:// URL');
      expect(output).not.toMatch(/^ +at /m);
    });

    test.each(['migrate', 'freezes'])('%s without a server', async (command) => {
      const { code, output } = await lapse({ databaseUrl: 'postgres://lapse@127.0.0.1:9/lapse' }, command);
      expect(code).toBe(1);
      expect(output).toContain('PostgreSQL cannot be used at 127.0.0.1:9');
      expect(output).toContain('DATABASE_URL');
      expect(output).not.toMatch(/^ +at /m);
    });

    test('an empty database', async () => {
      const empty = await createTestDatabase({ adminUrl: inject('databaseUrl') });
      try {
        const { code, output } = await lapse({ databaseUrl: empty.url }, 'freezes');
        expect(code).toBe(1);
        expect(output).toContain('Run `lapse migrate` first.');
        expect(output).not.toMatch(/^ +at /m);
      } finally {
        await empty.drop();
      }
    });
  });
});
