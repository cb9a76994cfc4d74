import { once } from 'node:events';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';

import { createTestDatabase, freePort, spawnGuarded, startProxy, waitFor } from '@lapse/devstack';
import { createLog, openDatabase } from '@lapse/runtime';
import { describe, expect, inject, test } from 'vitest';

import { root } from '../root.ts';
import { runScript, startFleet, untilNonePending, type Ended } from './fleet.ts';

type App = 'api' | 'worker' | 'ops';

/** Everything the apps ask for. */
const complete = {
  DATABASE_URL: 'postgres://lapse@127.0.0.1:9/lapse',
  REDIS_URL: 'redis://127.0.0.1:9',
  LAPSE_HOST: '127.0.0.1',
  LAPSE_API_PORT: '0',
  LAPSE_WORKER_PORT: '0',
  LAPSE_OPS_PORT: '0',
  LAPSE_API_KEY: 'test-key-0123456789abcdef',
  LAPSE_OPS_PASSWORD: 'test-password',
  LAPSE_SESSION_SECRET: 'test-secret-0123456789abcdef0123456789',
};

const run = (app: App, env: Readonly<Record<string, string>>): Promise<Ended> =>
  runScript(`apps/${app}/src/main.ts`, [], env);

/** Takes a port of this machine. */
async function takePort(): Promise<{ port: number; server: Server }> {
  const port = await freePort();
  const server = createServer().listen({ port, host: '127.0.0.1' });
  await once(server, 'listening');
  return { port, server };
}

const apps: readonly App[] = ['api', 'worker', 'ops'];

describe.each(apps)('%s', (app) => {
  test('names every setting that is missing', async () => {
    const { code, output } = await run(app, {});
    expect(code).toBe(1);
    expect(output).toContain('DATABASE_URL must be a postgres:// URL');
    expect(output).toContain('REDIS_URL must be a redis:// or rediss:// URL');
    expect(output.includes('LAPSE_API_KEY is required')).toBe(app === 'api');
    expect(output.includes('LAPSE_OPS_PASSWORD is required')).toBe(app === 'ops');
    expect(output.includes('LAPSE_SESSION_SECRET is required')).toBe(app === 'ops');
    expect(output).not.toMatch(/^ +at /m);
  });

  test('refuses a setting that does not exist, with the names of those that do', async () => {
    const { code, output } = await run(app, { ...complete, LAPSE_PORT: '3000' });
    expect(code).toBe(1);
    expect(output).toContain('LAPSE_PORT is not a setting');
    expect(output).toContain('LAPSE_API_PORT');
  });

  test('without PostgreSQL says where it looked and what to check', async () => {
    const port = await freePort();
    const { code, output } = await run(app, {
      ...complete,
      DATABASE_URL: `postgres://lapse@127.0.0.1:${port}/lapse`,
    });
    expect(code).toBe(1);
    expect(output).toContain(`127.0.0.1:${port}`);
    expect(output).toContain('DATABASE_URL');
  });

  test('with a password that is wrong says so, but not the password', async () => {
    const url = new URL(inject('databaseUrl'));
    url.pathname = '/nowhere_to_be_found';
    url.password = 'sesame-42';
    const { code, output } = await run(app, { ...complete, DATABASE_URL: url.href });
    expect(code).toBe(1);
    expect(output).toContain('nowhere_to_be_found');
    expect(output).not.toContain('sesame-42');
  });

  test('on an empty database says what to run', async () => {
    const empty = await createTestDatabase({ adminUrl: inject('databaseUrl') });
    try {
      const { code, output } = await run(app, { ...complete, DATABASE_URL: empty.url });
      expect(code).toBe(1);
      expect(output).toContain('lapse migrate');
    } finally {
      await empty.drop();
    }
  });
});

test.each(['api', 'worker'] as const)(
  '%s with half of what a payment provider needs ends, and names the other half',
  async (app) => {
    const env = { ...complete, REDIS_URL: inject('redisUrl'), LAPSE_STRIPE_SECRET_KEY: 'sk_test_half' };
    const { code, output } = await run(app, env);
    expect({ code, output }).toMatchObject({ code: 1 });
    expect(output).toContain(
      'LAPSE_STRIPE_WEBHOOK_SECRET is required where LAPSE_STRIPE_SECRET_KEY is given',
    );
  },
);

test('wrong settings are all named at once, each with what is wrong about it', async () => {
  const { code, output } = await run('api', {
    DATABASE_URL: 'mysql://127.0.0.1/lapse',
    REDIS_URL: '127.0.0.1:6379',
    LAPSE_API_PORT: '65536',
    LAPSE_API_KEY: 'short',
    LAPSE_PARTITIONS: '0',
    LAPSE_TRUST_PROXY: 'yes',
    LAPSE_LOG_LEVEL: 'loud',
    LAPSE_API_PROT: '3000',
  });
  expect(code).toBe(1);
  const problems = output.split('\n').filter((line) => line.startsWith('  - '));
  const named = problems.map((problem) => problem.slice(4).split(' ', 1)[0]);
  expect(new Set(named)).toEqual(
    new Set([
      'DATABASE_URL',
      'LAPSE_API_KEY',
      'LAPSE_API_PORT',
      'LAPSE_API_PROT',
      'LAPSE_LOG_LEVEL',
      'LAPSE_PARTITIONS',
      'LAPSE_TRUST_PROXY',
      'REDIS_URL',
    ]),
  );
});

describe.each([
  ['api', 'LAPSE_API_PORT'],
  ['ops', 'LAPSE_OPS_PORT'],
] as const)('%s', (app, setting) => {
  test(`on a taken port names it and ${setting}`, async () => {
    const own = await createTestDatabase({
      adminUrl: inject('databaseUrl'),
      template: inject('templateDatabase'),
    });
    const { port, server } = await takePort();
    try {
      const env = {
        ...complete,
        DATABASE_URL: own.url,
        REDIS_URL: inject('redisUrl'),
        [setting]: String(port),
      };
      const { code, output } = await run(app, env);
      expect(code).toBe(1);
      expect(output).toContain(`Port ${port} is taken`);
      expect(output).toContain(setting);
    } finally {
      server.close();
      await own.drop();
    }
  });
});

test('workers with the same port take the next free ones', async () => {
  const { port, server } = await takePort();
  const fleet = await startFleet({ apiCount: 0, workerCount: 3, env: { LAPSE_WORKER_PORT: String(port) } });
  try {
    const ports = fleet.workers.map((worker) => worker.port);
    expect(new Set([port, ...ports]).size).toBe(4);
    for (const each of ports) {
      expect(each).toBeGreaterThan(port);
      expect(each).toBeLessThanOrEqual(port + 100);
    }
    for (const worker of fleet.workers) expect((await fetch(`${worker.url}/readyz`)).status).toBe(200);
  } finally {
    server.close();
    await fleet.stop();
  }
});

test('without Redis everything starts, is ready, sells, and cancels what is not paid', async () => {
  const redisUrl = `redis://127.0.0.1:${await freePort()}`;
  const fleet = await startFleet({ workerCount: 1, redisUrl });
  try {
    for (const app of [...fleet.apis, ...fleet.workers]) {
      const ready = await fetch(`${app.url}/readyz`);
      expect(ready.status).toBe(200);
      expect(await ready.json()).toMatchObject({ status: 'ready', postgresql: 'ok', redis: 'unreachable' });
    }
    await fleet.client.setStock('mug', 10);
    const items = [{ sku: 'mug', quantity: 1, unitAmount: 100 }];
    const order = await fleet.client.checkout({ currency: 'EUR', items, paymentWindowMs: 1000 });
    expect((await fleet.client.timeline(order.id)).job).toBeNull();
    await untilNonePending(fleet.database, 10_000);
    await fleet.expectInvariants();
    const exits = await Promise.all([...fleet.apis, ...fleet.workers].map((app) => app.stop()));
    expect(exits).toEqual([
      { code: 0, signal: null },
      { code: 0, signal: null },
    ]);
  } finally {
    await fleet.stop();
  }
});

const ownDatabase = () =>
  createTestDatabase({ adminUrl: inject('databaseUrl'), template: inject('templateDatabase') });

describe('lapse', () => {
  const script = 'apps/cli/src/main.ts';
  const startCommand = (args: readonly string[], env: Readonly<Record<string, string>>) =>
    spawnGuarded(process.execPath, [join(root, script), ...args], { name: 'lapse', cwd: root, env });

  test('drift names both servers where both are missing', async () => {
    const { code, output } = await runScript(script, ['drift'], {});
    expect(code).toBe(1);
    expect(output).toContain('DATABASE_URL must be a postgres:// URL');
    expect(output).toContain('REDIS_URL must be a redis:// or rediss:// URL');
  });

  test('drift waits for a Redis that takes a moment to be reached', async () => {
    const own = await ownDatabase();
    const { hostname: host, port } = new URL(inject('redisUrl'));
    const proxy = await startProxy({ target: { host, port: Number(port) } });
    await proxy.refuse();
    try {
      const env = { DATABASE_URL: own.url, REDIS_URL: proxy.urlFor(inject('redisUrl')) };
      const drift = await startCommand(['drift'], env);
      await waitFor(() => drift.logs().some((line) => line.includes('redis cannot be reached')), {
        what: 'the first try to have failed',
      });
      await proxy.restore();
      expect(await drift.exited).toEqual({ code: 0, signal: null });
      expect(drift.logs()).toContain('0 pending orders, 0 without a delayed job.');
    } finally {
      await proxy.stop();
      await own.drop();
    }
  });

  test('freeze wants a reason that says something', async () => {
    const own = await ownDatabase();
    try {
      const env = { DATABASE_URL: own.url };
      const { code, output } = await runScript(script, ['freeze', '--reason', ' '], env);
      expect(code).toBe(1);
      expect(output).toMatch(/^--reason must say something: .*$/);
    } finally {
      await own.drop();
    }
  });

  test('thaw finds a freeze behind many newer ones, waits for it, and can be interrupted', async () => {
    const own = await ownDatabase();
    const database = openDatabase({ url: own.url, app: 'test', log: createLog('test', 'error'), max: 1 });
    try {
      const env = { DATABASE_URL: own.url };
      await database.query(`
        insert into freezes (id, reason, actor, frozen_at)
        values (gen_random_uuid(), 'the oldest', 'test', now() - interval '1 hour')`);
      await database.query(`
        insert into freezes (id, state, reason, actor, frozen_at, thawing_at, thaw_xid, done_at)
        select gen_random_uuid(), 'done', 'newer', 'test', now(), now(), pg_current_xact_id(), now()
        from generate_series(1, 60)`);
      expect((await runScript(script, ['freezes'], env)).output).toMatch(/ frozen .* the oldest /);
      // No worker runs, so it waits.
      const thaw = await startCommand(['thaw'], env);
      await waitFor(() => thaw.logs().some((line) => line.startsWith('Waiting')), { what: 'the thaw' });
      expect(thaw.logs()[0]).toMatch(/^Thawing .*: the oldest$/);
      thaw.kill('SIGINT');
      // As process 1 of a container it would be immune to a signal that it does not handle itself.
      expect(await thaw.exited).toEqual({ code: 130, signal: null });
      expect(thaw.logs()).not.toContain('Every deadline has moved by the time it stood still.');
    } finally {
      await database.end();
      await own.drop();
    }
  });
});
