import { createTestDatabase, waitFor, type RunningApp } from '@lapse/devstack';
import { describe, expect, inject, test } from 'vitest';

import {
  countCancelled,
  countEvents,
  metric,
  runScript,
  startFleet,
  untilNonePending,
  type Ended,
  type Fleet,
} from './fleet.ts';

const orderCount = 1200;

/** Runs the command line on the database of a fleet. */
const lapse = ({ databaseUrl }: { databaseUrl: string }, ...args: readonly string[]): Promise<Ended> =>
  runScript('apps/cli/src/main.ts', args, { DATABASE_URL: databaseUrl, LAPSE_LOG_LEVEL: 'warn' });

/** Runs one that must succeed; its output. */
async function succeed(fleet: { databaseUrl: string }, ...args: readonly string[]): Promise<string> {
  const { code, output } = await lapse(fleet, ...args);
  expect({ code, output }).toEqual({ code: 0, output });
  return output;
}

/** A shop whose workers were down for so long that 1,200 orders are overdue by 10 minutes. */
async function afterAnOutage(): Promise<Fleet> {
  const fleet = await startFleet({ workerCount: 0 });
  const { client, database } = fleet;
  await client.setStock('mug', 10_000);
  const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];
  const checkout = () => client.checkout({ currency: 'EUR', items, paymentWindowMs: 60_000 });
  for (let n = 0; n < orderCount; n += 100) await Promise.all(Array.from({ length: 100 }, checkout));
  await database.query(`
    update orders set
      created_at = created_at - interval '11 minutes', deadline_at = deadline_at - interval '11 minutes',
      expire_at = expire_at - interval '11 minutes', check_at = check_at - interval '11 minutes'`);
  return fleet;
}

async function readyz(worker: RunningApp): Promise<{ status: number; brake: unknown }> {
  const response = await fetch(`${worker.url}/readyz`);
  const body: unknown = await response.json();
  const brake: unknown =
    typeof body === 'object' && body !== null && 'brake' in body ? body.brake : undefined;
  return { status: response.status, brake };
}

const alarms = (worker: RunningApp): string[] =>
  worker.logs().filter((line) => line.includes('expiry held: too much is overdue'));

/** Starts two workers and waits until one tells that expiry is held. */
async function startHeld(fleet: Fleet): Promise<readonly RunningApp[]> {
  const workers = await Promise.all([fleet.add('worker'), fleet.add('worker')]);
  await waitFor(() => Promise.resolve(workers.every((worker) => alarms(worker).length > 0)), {
    what: 'the alarm',
    timeoutMs: 20_000,
  });
  return workers;
}

describe('after an outage the brake', () => {
  test('holds every order and says so; resume --extend gives each its time, and then they lapse', async () => {
    const fleet = await afterAnOutage();
    try {
      const { client, database } = fleet;
      const [worker] = await startHeld(fleet);
      if (worker === undefined) throw new Error('there is no worker');
      expect(await countCancelled(database)).toBe(0);
      expect(await metric(worker, 'lapse_brake_active')).toBe(1);
      expect(await metric(worker, 'lapse_held_orders')).toBe(orderCount);
      expect(await readyz(worker)).toEqual({ status: 200, brake: 'on: lapse resume releases it' });
      expect(await succeed(fleet, 'freezes')).toMatch(
        /^\S+ +frozen .* brake: 1,200 of 1,200 pending orders were overdue by 5 minutes or more \((worker|sweeper)\)$/,
      );
      expect(await lapse(fleet, 'thaw')).toMatchObject({ code: 1, output: 'Nothing is frozen.' });

      // An order that falls due meanwhile is held, too: its job fires, and the sweeps come by.
      const young = await client.checkout({
        currency: 'EUR',
        items: [{ sku: 'mug', quantity: 1, unitAmount: 100 }],
        paymentWindowMs: 1000,
      });
      await waitFor(async () => (await client.order(young.id)).remainingMs === 0, { what: 'its deadline' });
      await waitFor(async () => (await metric(worker, 'lapse_held_orders')) === orderCount + 1, {
        what: 'it to be held',
      });
      expect(await countCancelled(database)).toBe(0);
      expect(alarms(worker)).toHaveLength(1);

      const output = await succeed(fleet, 'resume', '--extend', '2s');
      expect(output).toContain('Released the brake of ');
      expect(output).toContain('Every deadline has moved. Expiry goes on.');
      await untilNonePending(database, 20_000);
      const { rows } = await database.query(`
        select o.deadline_at = f.thawing_at + interval '2 seconds' as extended, count(*) as count
        from orders o cross join freezes f
        where o.cancel_reason = 'payment_timeout' and o.cancelled_at >= o.deadline_at
        group by 1`);
      expect(rows).toEqual([{ extended: true, count: orderCount + 1 }]);
      expect((await client.timeline(young.id)).events.map(({ type }) => type)).toEqual([
        'order.placed',
        'order.extended',
        'order.cancelled',
      ]);
      await waitFor(async () => (await metric(worker, 'lapse_brake_active')) === 0, {
        what: 'the all-clear',
      });
      expect(await metric(worker, 'lapse_held_orders')).toBe(0);
      expect(await readyz(worker)).toEqual({ status: 200, brake: 'ok' });
      expect(await succeed(fleet, 'resume')).toBe('Expiry is not held: there is nothing to release.');
      expect(await lapse(fleet, 'resume', '--extend', '1m')).toMatchObject({
        code: 1,
        output: 'Expiry is not held, so there is nothing to extend.',
      });
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  }, 90_000);

  test('is released without an extension: the backlog is cancelled, and resume waits for it', async () => {
    const fleet = await afterAnOutage();
    try {
      const [worker] = await startHeld(fleet);
      const output = await succeed(fleet, 'resume');
      expect(output).toContain('1,200 overdue orders are cancelled now');
      expect(output).toContain('The backlog is gone. Expiry goes on.');
      expect(await countCancelled(fleet.database)).toBe(orderCount);
      await waitFor(
        () => Promise.resolve(worker?.logs().some((line) => line.includes('expiry goes on')) === true),
        { what: 'the worker to tell' },
      );
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  }, 90_000);

  test('whose extension loses its worker half way is carried on by another; nothing is cancelled early', async () => {
    const fleet = await afterAnOutage();
    try {
      const { database } = fleet;
      const workers = await startHeld(fleet);
      // Whoever moves the last page must wait for this row, and has moved the page before it.
      const stone = await database.connect();
      let resume: Promise<Ended>;
      try {
        await stone.query('begin');
        await stone.query('set local idle_in_transaction_session_timeout = 0');
        await stone.query('select from orders order by check_at desc limit 1 for update');
        resume = lapse(fleet, 'resume', '--extend', '10s');
        await waitFor(async () => (await extendedCount(fleet)) === 1000, {
          what: 'a page',
          timeoutMs: 20_000,
        });
        for (const worker of workers) worker.kill('SIGKILL');
        await Promise.all(workers.map(({ exited }) => exited));
        expect(await extendedCount(fleet)).toBe(1000);
      } finally {
        await stone.query('rollback');
        stone.release();
      }
      await fleet.add('worker');
      expect(await resume).toMatchObject({ code: 0 });
      expect(await extendedCount(fleet)).toBe(orderCount);
      await untilNonePending(database, 30_000);
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  }, 90_000);

  test('does not go on where LAPSE_BRAKE_ORDERS is 0', async () => {
    const fleet = await afterAnOutage();
    try {
      await fleet.add('worker', { LAPSE_BRAKE_ORDERS: '0' });
      await untilNonePending(fleet.database, 20_000);
      expect(await succeed(fleet, 'freezes')).toBe('There never was a freeze.');
      await fleet.expectInvariants();
    } finally {
      await fleet.stop();
    }
  }, 90_000);
});

/** Orders that a release gave more time; one that got it twice counts twice. */
const extendedCount = (fleet: Fleet): Promise<number> => countEvents(fleet, 'order.extended');

test.each(['soon', '15', '0s', '15 m', '-1h', '91d', '1.5h', ''])(
  'resume --extend "%s" says what to write instead',
  async (extension) => {
    const own = await createTestDatabase({
      adminUrl: inject('databaseUrl'),
      template: inject('templateDatabase'),
    });
    try {
      const { code, output } = await lapse({ databaseUrl: own.url }, 'resume', `--extend=${extension}`);
      expect(code).toBe(1);
      expect(output).toContain('write a number and s, m, h or d, from 1s to 90d; 15m for example.');
      expect(output).not.toMatch(/^ +at /m);
    } finally {
      await own.drop();
    }
  },
);
