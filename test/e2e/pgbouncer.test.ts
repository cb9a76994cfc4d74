import { createClient } from '@lapse/client';
import {
  createTestDatabase,
  inParallel,
  startPgbouncer,
  waitFor,
  type RunningApp,
  type RunningServer,
} from '@lapse/devstack';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';

import { apiKey, runScript, startFleet, untilNonePending, type Fleet } from './fleet.ts';

const orderCount = 400;
let pgbouncer: RunningServer;
/** Without processes at first: they come through PgBouncer. */
let fleet: Fleet;

const start = (port?: number): Promise<RunningServer> =>
  startPgbouncer({
    databaseUrl: inject('databaseUrl'),
    poolSize: 5,
    onNotice: (notice) => console.log(notice),
    ...(port === undefined ? {} : { port }),
  });

beforeAll(async () => {
  pgbouncer = await start();
  fleet = await startFleet({ apiCount: 0, workerCount: 0, env: { LAPSE_PARTITIONS: '3' } });
});

afterAll(async () => {
  await fleet.stop();
  await pgbouncer.stop();
});

/** The same database, by way of PgBouncer. */
function through(databaseUrl: string, query = ''): string {
  const url = new URL(pgbouncer.url);
  url.pathname = new URL(databaseUrl).pathname;
  url.search = query;
  return url.href;
}

/** What is new to somebody who watches: a process's messages above info. */
function complaints(app: RunningApp): unknown[] {
  return app
    .logs()
    .map((line): unknown => JSON.parse(line))
    .filter((entry) => !/"level":"(?:debug|info)"/.test(JSON.stringify(entry)))
    .filter((entry) => !JSON.stringify(entry).includes('arming every pending deadline again'));
}

test('two apis and two workers share five sessions in transaction mode, and each order ends as it should', async () => {
  const env = { DATABASE_URL: through(fleet.databaseUrl, '?prepare=off') };
  const [apis, workers] = await Promise.all(
    (['api', 'worker'] as const).map((app) => Promise.all([fleet.add(app, env), fleet.add(app, env)])),
  );
  const clients = (apis ?? []).map(({ url }) => createClient({ baseUrl: url, apiKey }));
  const clientOf = (n: number) => {
    const client = clients[n % clients.length];
    if (client === undefined) throw new Error('no api was started');
    return client;
  };
  await clientOf(0).setStock('mug', orderCount);

  const live = async (n: number): Promise<void> => {
    const client = clientOf(n);
    const { id } = await client.checkout(
      {
        currency: 'EUR',
        items: [{ sku: 'mug', quantity: 1, unitAmount: 100 }],
        paymentWindowMs: 2000 + (n % 3000),
      },
      { idempotencyKey: `order-${n}` },
    );
    const payment = { provider: 'shop', providerPaymentId: id, amount: 100, currency: 'EUR' };
    if (n % 4 === 0) await client.pay(id, payment, { idempotencyKey: `payment-${n}` });
    if (n % 4 === 1) await client.cancel(id);
    if (n % 4 === 2) await client.extend(id, { byMs: 500 });
  };
  const command = async (...args: string[]): Promise<string> => {
    const { code, output } = await runScript('apps/cli/src/main.ts', args, env);
    expect({ args, code, output }).toMatchObject({ code: 0 });
    return output;
  };
  const living = inParallel(orderCount, 24, live);
  await command('freeze', '--reason', 'provider down');
  await living;
  await command('thaw');
  await untilNonePending(fleet.database, 30_000);

  const { rows } = await fleet.database.query<{ ending: string; count: number }>(
    'select coalesce(cancel_reason, status) as ending, count(*) from orders group by 1 order by 1',
  );
  expect(rows).toEqual([
    { ending: 'customer', count: orderCount / 4 },
    { ending: 'paid', count: orderCount / 4 },
    { ending: 'payment_timeout', count: orderCount / 2 },
  ]);
  const sessions = await fleet.database.query<{ count: number }>(
    `select count(*) from pg_stat_activity
     where datname = current_database() and application_name in ('lapse-api', 'lapse-worker', 'lapse-cli')`,
  );
  expect(sessions.rows[0]?.count).toBeLessThanOrEqual(5);
  await fleet.expectInvariants();
  for (const app of [...(apis ?? []), ...(workers ?? [])]) expect(complaints(app)).toEqual([]);
});

test('a process that may prepare statements does not start behind it, and says what to change', async () => {
  const own = await createTestDatabase({
    adminUrl: inject('databaseUrl'),
    template: inject('templateDatabase'),
  });
  try {
    await expect(fleet.add('worker', { DATABASE_URL: through(own.url) })).rejects.toThrow(
      'Add ?prepare=off to DATABASE_URL',
    );
  } finally {
    await own.drop();
  }
});

test('migrations run through it, and those that start together wait for each other', async () => {
  const own = await createTestDatabase({ adminUrl: inject('databaseUrl') });
  const env = { DATABASE_URL: through(own.url) };
  try {
    const ended = await inParallel(3, 3, () => runScript('apps/cli/src/main.ts', ['migrate'], env));
    expect(ended.map(({ code }) => code)).toEqual([0, 0, 0]);
    expect(ended.filter(({ output }) => output.includes('Applied')).length).toBe(1);
  } finally {
    await own.drop();
  }
});

test('while it is away nothing is answered but 503, and when it is back all goes on', async () => {
  const api = await fleet.add('api', { DATABASE_URL: through(fleet.databaseUrl, '?prepare=off') });
  const client = createClient({ baseUrl: api.url, apiKey });
  await pgbouncer.stop();
  await expect(client.stock('mug')).rejects.toMatchObject({ code: 'unavailable', status: 503 });
  pgbouncer = await start(pgbouncer.port);
  await waitFor(() => client.stock('mug').catch(() => undefined), { what: 'the stock to be read again' });
});
