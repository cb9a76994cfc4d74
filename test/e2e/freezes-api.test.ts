import { randomUUID } from 'node:crypto';

import { waitFor } from '@lapse/devstack';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { call, lapse, startFleet, type Answered, type Fleet } from './fleet.ts';

let fleet: Fleet;
beforeAll(async () => {
  fleet = await startFleet({ workerCount: 1 });
});
afterAll(async () => {
  await fleet.expectInvariants();
  await fleet.stop();
});

const freeze = (body: unknown): Promise<Answered> => call(fleet, 'POST', '/v1/freezes', body);
const thaw = (id: string): Promise<Answered> => call(fleet, 'POST', `/v1/freezes/${id}/thaw`);

const untilCancelled = (orderId: string): Promise<boolean> =>
  waitFor(async () => (await fleet.client.order(orderId)).status === 'cancelled', {
    what: `order ${orderId} to be cancelled`,
    timeoutMs: 20_000,
  });

/** The freezes as the API lists them. */
async function list(): Promise<readonly Answered['body'][]> {
  const { status, body } = await call(fleet, 'GET', '/v1/freezes');
  expect(status).toBe(200);
  return body['data'] as readonly Answered['body'][];
}

describe.concurrent('a freeze', () => {
  test.each([
    ['of everybody', {}],
    ['of a channel', { channel: 'kiosk' }],
    ['of a payment method at a provider', { paymentMethod: 'wallet', provider: 'sandbox' }],
    ['of all three', { channel: 'kiosk', paymentMethod: 'wallet', provider: 'sandbox' }],
  ])('%s is answered and listed as it was asked for, and thawed', async (name, scope) => {
    const made = await freeze({ scope, reason: name });
    expect(made).toMatchObject({ status: 201, body: { state: 'frozen', actor: 'api', reason: name } });
    expect(made.body['scope']).toEqual(scope);
    const id = String(made.body['id']);
    expect((await list()).find((one) => one['id'] === id)).toEqual(made.body);
    expect(await thaw(id)).toMatchObject({
      status: 200,
      body: { id, state: 'thawing', doneAt: null, releasedBy: 'api' },
    });
  });

  test('without a scope is of everybody', async () => {
    const { status, body } = await freeze({ reason: 'no scope' });
    expect({ status, scope: body['scope'] }).toEqual({ status: 201, scope: {} });
    await thaw(String(body['id']));
  });

  test('that is thawed again is answered as it is, and its end stays', async () => {
    const { body: made } = await freeze({ scope: { channel: 'twice' }, reason: 'twice' });
    const id = String(made['id']);
    const thawed = await Promise.all([thaw(id), thaw(id.toUpperCase()), thaw(id)]);
    expect(thawed.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(new Set(thawed.map(({ body }) => body['thawingAt'])).size).toBe(1);
    expect((await thaw(id)).body['thawingAt']).toBe(thawed[0]?.body['thawingAt']);
  });

  test('holds the orders in its scope, and no others', async () => {
    const { client } = fleet;
    await client.setStock('mug', null);
    const channel = `held ${randomUUID()}`;
    const { body } = await freeze({ scope: { channel }, reason: 'held' });
    const place = (to: string) =>
      client.checkout({
        currency: 'EUR',
        items: [{ sku: 'mug', quantity: 1, unitAmount: 500 }],
        paymentWindowMs: 1000,
        channel: to,
      });
    const [held, free] = [await place(channel), await place(`free ${randomUUID()}`)];
    await untilCancelled(free.id);
    expect((await client.order(held.id)).status).toBe('pending_payment');
    await thaw(String(body['id']));
    await untilCancelled(held.id);
  });
});

describe.concurrent('a wrong freeze', () => {
  test.each([
    ['an unknown field', { reason: 'x', untill: 'tomorrow' }, 'untill'],
    ['an unknown scope', { reason: 'x', scope: { country: 'DE' } }, 'scope.country'],
    ['a scope that is a text', { reason: 'x', scope: 'stripe' }, 'scope'],
    ['an empty scope', { reason: 'x', scope: { channel: '' } }, 'scope.channel'],
    ['a scope that is too long', { reason: 'x', scope: { provider: 'p'.repeat(65) } }, 'scope.provider'],
    ['a scope that is null', { reason: 'x', scope: { paymentMethod: null } }, 'scope.paymentMethod'],
    ['an empty reason', { reason: '' }, 'reason'],
    ['a reason of blanks', { reason: ' \n' }, 'reason'],
    ['no reason', { scope: {} }, 'reason'],
    ['a reason that is too long', { reason: 'x'.repeat(1001) }, 'reason'],
    ['a reason that cannot be stored', { reason: 'a\0b' }, 'reason'],
  ])('with %s is refused, the field named, and nothing is frozen', async (_, body, field) => {
    const { status, body: problem } = await freeze(body);
    expect({ status, code: problem['code'] }).toEqual({ status: 400, code: 'invalid_request' });
    expect(problem['errors']).toMatchObject([{ field }]);
    expect((await list()).filter(({ reason }) => reason === 'x' || reason === '')).toEqual([]);
  });

  test('without a body is refused', async () => {
    expect(await freeze(undefined)).toMatchObject({ status: 400, body: { code: 'invalid_request' } });
  });
});

describe.concurrent('a thaw', () => {
  test('of an unknown freeze is a 404', async () => {
    expect(await thaw(randomUUID())).toMatchObject({ status: 404, body: { code: 'not_found' } });
  });

  test('of what is no id is refused', async () => {
    expect(await thaw('42')).toMatchObject({ status: 400, body: { code: 'invalid_request' } });
  });

  test('of a brake is a 404 that says how it is released', async () => {
    const { rows } = await fleet.database.query<{ id: string }>(
      `insert into freezes (
         id, kind, state, reason, actor, frozen_at, thawing_at, thaw_xid, done_at, released_by
       )
       values (
         gen_random_uuid(), 'brake', 'done', 'too much', 'worker', now(), now(), pg_current_xact_id(), now(), 'cli:ann'
       )
       returning id`,
    );
    const { status, body } = await thaw(rows[0]?.id ?? '');
    expect(status).toBe(404);
    expect(body['detail']).toContain('lapse resume');
  });
});

test('a freeze that is on is listed, however many newer ones are over', async () => {
  const { client, database } = fleet;
  const { id } = await client.freeze({ reason: 'the oldest', scope: { channel: 'long ago' } });
  await database.query(`update freezes set frozen_at = frozen_at - interval '1 day' where id = $1`, [id]);
  await database.query(
    `insert into freezes (id, state, reason, actor, channel, frozen_at, thawing_at, thaw_xid, done_at)
     select gen_random_uuid(), 'done', 'newer', 'test', 'over', now(), now(), pg_current_xact_id(), now()
     from generate_series(1, 250)`,
  );
  const listed = await client.freezes();
  expect(listed.filter(({ reason }) => reason === 'newer')).toHaveLength(200);
  expect(listed.find((one) => one.id === id)).toMatchObject({
    kind: 'freeze',
    state: 'frozen',
    scope: { channel: 'long ago' },
    actor: 'api',
  });
  expect(await client.thaw(id)).toMatchObject({ id, state: 'thawing', releasedBy: 'api' });
  await database.query(`delete from freezes where reason = 'newer'`);
});

test('the command line freezes a scope, and lists it', async () => {
  const scope = ['--channel', 'web', '--payment-method', 'card', '--provider', 'stripe'];
  const made = await lapse(fleet, 'freeze', ...scope, '--reason', 'stripe is down');
  expect(made).toMatchObject({ code: 0 });
  expect(made.output).toContain('orders of channel web and payment method card and provider stripe.');
  const id = /lapse thaw (\S+)/.exec(made.output)?.[1] ?? '';
  const { output } = await lapse(fleet, 'freezes');
  expect(output.split('\n').find((line) => line.startsWith(id))).toMatch(
    /^\S+ {2}frozen .* orders of channel web and payment method card and provider stripe: stripe is down \(cli:/,
  );
  expect((await list()).find((one) => one['id'] === id)).toMatchObject({
    scope: { channel: 'web', paymentMethod: 'card', provider: 'stripe' },
  });
  expect(await lapse(fleet, 'thaw', id)).toMatchObject({ code: 0 });
  const { output: after } = await lapse(fleet, 'freezes');
  // Who froze, and who thawed.
  expect(after.split('\n').find((line) => line.startsWith(id))).toMatch(
    / done .* \(cli:\S+, then cli:\S+\)$/,
  );
});
