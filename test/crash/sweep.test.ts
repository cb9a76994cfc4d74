import { randomUUID } from 'node:crypto';

import { inParallel, waitFor } from '@lapse/devstack';
import { describe, expect, test } from 'vitest';

import { prepareStages, placeUnarmed, story, untilLapsed, type Stage } from './stage.ts';
import { pageSize } from './victims/page-size.ts';

const timeoutMs = 30_000;
/** Due at once: as good as overdue by the time a process has started. */
const noTimeMs = 1;

const stages = prepareStages();

const place = async (stage: Stage, sku: string = randomUUID()): Promise<string> =>
  (await placeUnarmed(stage, { paymentWindowMs: noTimeMs, sku })).id;

describe.concurrent('sweep', () => {
  test(
    'rows locked, waiting for a stock row → killed: others pass by and sweep the rest; then this one, once',
    () =>
      stages.play(async (stage) => {
        const stone = await stage.database.connect();
        const waitCount = async (): Promise<number> => {
          const { rows } = await stage.database.query<{ count: number }>(
            `select count(*) from pg_stat_activity
           where datname = current_database() and wait_event_type = 'Lock' and query like '%with clock%'`,
          );
          return rows[0]?.count ?? 0;
        };
        const sku = randomUUID();
        const held = await place(stage, sku);
        try {
          await stone.query('begin');
          await stone.query('set local idle_in_transaction_session_timeout = 0');
          await stone.query('select from stock where sku = $1 for update', [sku]);
          // It halts in the database, behind the stone.
          const victim = await stage.startVictim('steps', 'sweep');
          await waitFor(async () => (await waitCount()) === 1, { what: 'the sweep to wait', timeoutMs });
          await victim.kill();

          const other = await place(stage);
          await stage.add('worker');
          expect(await untilLapsed(stage, other)).toBe('sweeper');
          expect((await stage.orders.find(held))?.status).toBe('pending_payment');
        } finally {
          stone.release(true);
        }
        expect(await untilLapsed(stage, held)).toBe('sweeper');
        expect(await story(stage, held)).toEqual(['order.placed', 'order.cancelled']);
      }),
    60_000,
  );

  test(
    'statement → killed → COMMIT: nothing is cancelled, no row stays locked, another sweeps each once',
    () =>
      stages.play(async (stage) => {
        const ids = await inParallel(pageSize + 1, 1, () => place(stage));
        const victim = await stage.startVictim('steps', 'sweep', 'commit', 'before');
        await victim.kill({ when: 'halted' });
        for (const id of ids) expect((await stage.orders.find(id))?.status).toBe('pending_payment');
        await stage.add('worker');
        for (const id of ids) expect(await untilLapsed(stage, id)).toBe('sweeper');
      }),
    60_000,
  );

  test(
    'COMMIT → killed: what was swept stays so, another sweeps the rest, each once',
    () =>
      stages.play(async (stage) => {
        const ids = await inParallel(pageSize + 1, 1, () => place(stage));
        const victim = await stage.startVictim('steps', 'sweep', 'commit', 'after');
        await victim.kill({ when: 'halted' });
        const pending = async (): Promise<number> => (await stage.orders.pendingAmong(ids)).size;
        expect(await pending()).toBe(1);
        await stage.add('worker');
        for (const id of ids) expect(await untilLapsed(stage, id)).toBe('sweeper');
      }),
    60_000,
  );
});
