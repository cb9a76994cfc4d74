import { inParallel, waitFor } from '@lapse/devstack';
import { expect, test } from 'vitest';

import { call, metric, type Answered } from './fleet.ts';
import { startShopWithSandbox } from './shop-with-sandbox.ts';

const gauge = 'lapse_provider_frozen{provider="sandbox"}';

test('while a provider is away the clock of its orders stands, and of no others; back, it goes on, whoever froze it', async () => {
  const shop = await startShopWithSandbox({
    workerCount: 2,
    env: { LAPSE_FREEZE_ON_PROVIDER_FAILURE: '1', LAPSE_PROVIDER_RATE: '1000' },
  });
  const { fleet, sandbox } = shop;
  const untilFreeze = (state: string): Promise<Answered['body']> =>
    waitFor(
      async () => {
        const { body } = await call(fleet, 'GET', '/v1/freezes');
        const ofBreaker = (body['data'] as readonly Answered['body'][]).filter(
          ({ actor }) => actor === 'breaker:sandbox',
        );
        expect(ofBreaker.length).toBeLessThan(2);
        return ofBreaker.find((freeze) => freeze['state'] === state);
      },
      { what: `the freeze to be ${state}`, timeoutMs: 60_000 },
    );
  try {
    const lasting = await shop.begin({ windowMs: 3_600_000 });
    // Many, so that the calls that fail open a breaker, whichever worker makes them.
    const due = await inParallel(24, 12, () => shop.begin({ windowMs: 8000 }));
    const byHand = { scope: { channel: 'kiosk' }, reason: 'by hand' };
    expect(await call(fleet, 'POST', '/v1/freezes', byHand)).toMatchObject({ status: 201 });
    sandbox.setBehaviour({ failShare: 1 });

    const frozen = await untilFreeze('frozen');
    expect(frozen).toMatchObject({ scope: { provider: 'sandbox' }, kind: 'freeze' });
    expect(frozen['reason']).toContain('sandbox stopped answering, its circuit breaker opened at');
    await waitFor(
      async () => Math.max(...(await Promise.all(fleet.workers.map((one) => metric(one, gauge))))) === 1,
      {
        what: 'the metric',
      },
    );
    const other = await shop.place({ windowMs: 1000 });
    await shop.until(other.id, 'cancelled');
    const held = await Promise.all(due.map(({ order }) => fleet.client.order(order.id)));
    expect(new Set(held.map(({ status }) => status))).toEqual(new Set(['pending_payment']));

    // Those that froze it are gone; the next one has seen no outage.
    for (const worker of fleet.workers) worker.kill();
    const next = await fleet.add('worker');
    await waitFor(async () => (await metric(next, gauge)) === 1, { what: 'the metric of the next worker' });
    sandbox.setBehaviour({ failShare: 0 });

    const done = await untilFreeze('done');
    const frozenMs = Date.parse(String(done['thawingAt'])) - Date.parse(String(done['frozenAt']));
    const { deadlineAt } = await fleet.client.order(lasting.order.id);
    expect(Date.parse(deadlineAt ?? '') - Date.parse(lasting.order.deadlineAt ?? '')).toBe(frozenMs);
    await Promise.all(due.map(({ order }) => shop.until(order.id, 'cancelled')));
    expect(await shop.story(due[0]?.order.id ?? '')).toEqual(
      expect.arrayContaining(['order.closing', 'order.thawed', 'attempt.closed', 'order.cancelled']),
    );
    await waitFor(async () => (await metric(next, gauge)) === 0, { what: 'the metric' });
    const { body } = await call(fleet, 'GET', '/v1/freezes');
    expect(body['data']).toMatchObject([
      { actor: 'breaker:sandbox' },
      { ...byHand, state: 'frozen', actor: 'api' },
    ]);
    await shop.expectRightBooks();
  } finally {
    await shop.stop();
  }
}, 120_000);
