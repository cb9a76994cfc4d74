import { fileURLToPath } from 'node:url';
import { randomUUID } from 'node:crypto';
import { createTestDatabase, spawnApp, waitFor, type TestDatabase } from '@lapse/devstack';
import { createOrders } from '@lapse/orders';
import { createLog, openDatabase } from '@lapse/runtime';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { cookiesOf, credentials, emptyRedis, form, place, startOps, type TestOps } from './testing.ts';

declare module 'vitest' {
  // As the tests' global set-up provides them.
  interface ProvidedContext {
    readonly databaseUrl: string;
    readonly templateDatabase: string;
    readonly redisUrl: string;
  }
}

// A Redis database of this file's own.
const redisUrl = `${inject('redisUrl')}/9`;
const html = { accept: 'text/html' };
let database: TestDatabase;
let ops: TestOps;
let get: (path: string, init?: RequestInit) => Promise<Response>;
const logged: string[] = [];

beforeAll(async () => {
  database = await createTestDatabase({
    adminUrl: inject('databaseUrl'),
    template: inject('templateDatabase'),
  });
  await emptyRedis(redisUrl);
  ops = await startOps({ databaseUrl: database.url, redisUrl, logged });
  await waitFor(() => ops.deadlines.reachable(), { what: 'redis' });
  await ops.orders.setStock('tea', null);
  get = await ops.signIn();
});

afterAll(async () => {
  await ops.stop();
  await database.drop();
});

async function page(path: string): Promise<string> {
  const response = await get(path);
  expect(response.status).toBe(200);
  return response.text();
}

async function postStatus(headers: Record<string, string>): Promise<number> {
  return (await get('/logout', { method: 'POST', headers })).status;
}

interface ShownQueue {
  readonly name: string;
  readonly readOnlyMode: boolean;
  readonly jobs: readonly { readonly id: string; readonly externalUrl: object }[];
  readonly pagination: { readonly pageCount: number };
}
async function json(path: string, ask = get) {
  const response = await ask(`/queues/api${path}`);
  return { status: response.status, body: await response.json() };
}

async function queues(query = '', ask = get): Promise<readonly ShownQueue[]> {
  return ((await json(`/queues${query}`, ask)).body as { queues: ShownQueue[] }).queues;
}

function env(): Record<string, string> {
  return {
    DATABASE_URL: database.url,
    REDIS_URL: redisUrl,
    LAPSE_HOST: '127.0.0.1',
    LAPSE_OPS_PORT: '0',
    LAPSE_OPS_PASSWORD: credentials.password,
    LAPSE_SESSION_SECRET: 'not a secret, but long enough for one',
  };
}

describe('login', () => {
  test('without a session a page leads to the login and everything else is refused', async () => {
    const wanted = await ops.fetch('/orders?status=paid', { headers: html });
    expect(wanted.status).toBe(303);
    expect(wanted.headers.get('location')).toBe('/login?next=%2Forders%3Fstatus%3Dpaid');

    for (const path of ['/', '/orders/1', '/work', '/queues/', '/queues/static/js/main.js', '/nowhere']) {
      expect((await ops.fetch(path, { headers: html })).status, path).toBe(303);
    }
    expect((await ops.fetch('/queues/api/queues')).status).toBe(401);
    expect((await ops.fetch('/queues/api/queues/pause', { method: 'PUT', headers: html })).status).toBe(401);
  });

  test('user and password lead to the page that was wished for, and only to one of ours', async () => {
    const there = await ops.fetch('/login', form({ ...credentials, next: '/work?after=1' }));
    expect([there.status, there.headers.get('location')]).toEqual([303, '/work?after=1']);

    const elsewhere = await ops.fetch('/login', form({ ...credentials, next: '//evil.example/' }));
    expect([elsewhere.status, elsewhere.headers.get('location')]).toEqual([303, '/']);

    const signedIn = await get('/login?next=/work');
    expect(signedIn.headers.get('location')).toBe('/work');
  });

  test('the session is a signed cookie that no script and no other site gets', async () => {
    const cookies = (await ops.fetch('/login', form(credentials))).headers.getSetCookie();

    expect(cookies).toHaveLength(2);
    for (const cookie of cookies)
      expect(cookie).toMatch(/; path=\/; expires=[^;]+; samesite=strict; httponly$/);
  });

  test('behind a proxy that speaks https the cookie is secure', async () => {
    const proxied = await startOps({ databaseUrl: database.url, redisUrl, trustProxy: 1 });
    const headers = { 'x-forwarded-proto': 'https' };
    const cookies = (await proxied.fetch('/login', { ...form(credentials), headers })).headers.getSetCookie();
    await proxied.stop();

    expect(cookies).toHaveLength(2);
    for (const cookie of cookies) expect(cookie).toContain('; secure');
  });

  test('a session that was changed or has ended is none', async () => {
    const cookie = cookiesOf(await ops.fetch('/login', form(credentials)));
    const ask = async (changed: string) =>
      (await ops.fetch('/', { headers: { ...html, cookie: changed } })).status;

    expect(await ask(cookie)).toBe(200);
    const forged = Buffer.from(JSON.stringify({ user: 'ops', until: Date.now() * 2 })).toString('base64');
    expect(await ask(cookie.replace(/lapse_ops=[^;]+/, `lapse_ops=${forged}`))).toBe(303);
    const out = await ops.fetch('/logout', { method: 'POST', headers: { cookie } });
    expect(cookiesOf(out)).toContain('lapse_ops=;');
  });

  test('wrong ones are refused, logged without what was typed, and limited', async () => {
    const strict = await startOps({ databaseUrl: database.url, redisUrl, logged });
    const statuses: number[] = [];
    const attempts = [
      { user: 'ops', password: 'guessed' },
      { user: 'guessed', password: credentials.password },
    ];
    for (let n = 0; n < 10; n += 1) {
      const answer = await strict.fetch('/login', form(attempts[n % 2] ?? {}));
      statuses.push(answer.status);
      expect(answer.headers.getSetCookie()).toEqual([]);
    }
    const limited = await strict.fetch('/login', form(credentials));
    const metrics = await (await strict.fetch('/metrics')).text();
    await strict.stop();

    expect(new Set(statuses)).toEqual(new Set([401]));
    expect(limited.status).toBe(429);
    expect(Number(limited.headers.get('retry-after'))).toBeGreaterThan(500);
    expect(metrics).toContain('lapse_ops_login_failures_total{reason="wrong"} 10');
    expect(logged.filter((line) => line.includes('login failed'))).toHaveLength(10);
    expect(logged.join('\n')).not.toMatch(/guessed|correct horse/);
  });

  test('a form of another site is refused', async () => {
    expect(await postStatus({ 'sec-fetch-site': 'cross-site' })).toBe(403);
    expect(await postStatus({ 'sec-fetch-site': 'same-site' })).toBe(403);
    expect(await postStatus({ origin: 'https://evil.example' })).toBe(403);
    expect(await postStatus({ origin: 'null' })).toBe(403);
    expect(await postStatus({ 'sec-fetch-site': 'same-origin' })).toBe(303);
    expect(await postStatus({ origin: ops.url })).toBe(303);
    const login = await ops.fetch('/login', {
      ...form(credentials),
      headers: { origin: 'https://evil.example' },
    });
    expect(login.status).toBe(403);
  });
});

describe('console', () => {
  test('the overview shows backlog, queues and the newest orders', async () => {
    const order = await place(ops, { reference: 'newest' });
    const body = await page('/');

    expect(body).toContain(`href="/orders/${order.id}"`);
    expect(body).toContain('Overdue orders');
    expect(body).toContain('reachable');
    expect(body).toContain('href="/queues/queue/partition%201?status=delayed"');
    expect(body).toContain('A paused queue would not stop the clock');
    expect(body).toContain('a canary for each partition');
  });

  test('the order page tells the story of an order', async () => {
    const order = await place(ops, { reference: 'story', metadata: { cart: 'c1' } });
    await ops.orders.extend({ orderId: order.id, to: { byMs: 60_000 }, actor: 'anna' });
    const payment = { provider: 'stripe', currency: 'EUR', verified: false, actor: 'stripe' };
    await ops.orders.pay({ ...payment, orderId: order.id, providerPaymentId: 'pi_1', amount: 1 });
    await ops.orders.pay({ ...payment, orderId: order.id, providerPaymentId: 'pi_2', amount: 2500 });
    const body = await page(`/orders/${order.id}`);

    const story = [...body.matchAll(/<h3>([^<]+)/g)].map(([, name]) => name);
    expect(story).toEqual([
      'Order placed',
      'Deadline extended',
      'Payment put on the work list',
      'Order paid',
    ]);
    expect(body).toContain('<span class="badge paid">paid</span>');
    expect(body).toContain(`<time datetime="${order.createdAt.toISOString()}">`);
    expect(body).toContain('by anna');
    expect(body).toContain('amount mismatch');
    expect(body).toContain('EUR\u00A025.00');
    expect(body).toContain('&quot;cart&quot;: &quot;c1&quot;');
    expect(body).toContain(`href="/queues/queue/partition%20${order.partition}/${order.id}"`);
  });

  test('a pending order has a deadline, and a job or the sweeper behind it', async () => {
    const order = await place(ops);
    const armed = await page(`/orders/${order.id}`);
    expect(armed).toContain('>delayed</a>');
    expect(armed).toContain('fires at');
    expect(armed).toMatch(/in 59 s|in 1 min/);

    await ops.deadlines.disarm({ orderId: order.id, partition: order.partition });
    expect(await page(`/orders/${order.id}`)).toContain('No job; the sweeper covers it.');
  });

  test('a freeze is announced', async () => {
    const order = await place(ops);
    const freeze = await ops.orders.freeze({ reason: 'provider <down>', actor: 'anna' });
    const bodies = await Promise.all(['/', `/orders/${order.id}`].map(page));
    await ops.orders.thaw(freeze.id, 'test');

    for (const body of bodies) {
      expect(body).toContain('The clock is frozen');
      expect(body).toContain('provider &lt;down&gt;');
    }
    expect(await page('/')).toContain('The clock is thawing');
    while ((await ops.orders.thawStep(100)).state !== 'done');
  });

  test('the brake is announced loudly, with what it holds and how to release it', async () => {
    const [order] = [await place(ops), await place(ops)];
    const pool = openDatabase({ url: database.url, app: 'test', log: createLog('test', 'silent') });
    await pool.query(`
      update orders set created_at = created_at - interval '1 hour', deadline_at = deadline_at - interval '1 hour',
        expire_at = expire_at - interval '1 hour', check_at = check_at - interval '1 hour'
      where status = 'pending_payment'`);
    await createOrders({ database: pool, brake: { orders: 1, share: 0 } }).sweep(1, 'test');
    await pool.end();
    const bodies = await Promise.all(['/', `/orders/${order.id}`].map(page));
    await ops.orders.resume({ actor: 'anna', extendMs: 60_000 });
    const released = await page('/');
    while ((await ops.orders.thawStep(1000)).state !== 'done');

    for (const body of bodies) {
      expect(body).toContain('role="alert"');
      expect(body).toContain('The brake is on: expiry holds');
      expect(body).toMatch(
        /(\d+) of \1 pending orders were overdue by 5 minutes or more\. Now \1 are overdue/,
      );
      expect(body).toContain('<code>lapse resume --extend 15m</code>');
    }
    expect(released).toContain('The brake is being released');
    expect(released).toContain('which anna granted');
    expect(await page('/')).toContain('no freeze is active');
  });

  test('what customers and shops write is text, never markup', async () => {
    const evil = '<script>alert("x")</script>\'"';
    await ops.orders.setStock(evil, null);
    const order = await place(ops, {
      reference: evil,
      channel: evil,
      paymentMethod: evil,
      metadata: { [evil]: evil },
      actor: evil,
      items: [{ sku: evil, quantity: 1, unitAmount: 1 }],
    });
    const money = {
      provider: evil,
      providerPaymentId: evil,
      amount: 2,
      currency: 'EUR',
      verified: false,
      actor: evil,
    };
    await ops.orders.pay({ ...money, orderId: order.id });

    const pages = ['/', '/orders', `/orders?q=${encodeURIComponent(evil)}`, `/orders/${order.id}`, '/work'];
    for (const path of [
      ...pages,
      `/orders/${encodeURIComponent(evil)}`,
      `/login?next=/${encodeURIComponent(evil)}`,
    ]) {
      const body = await (await get(path)).text();
      expect(body, path).not.toContain('<script>');
      expect(body, path).not.toMatch(/="[^"]*<script/);
    }
    const answer = await get('/');
    expect(answer.headers.get('content-security-policy')).toContain("script-src 'self';");
    expect(answer.headers.get('cache-control')).toBe('no-store');
  });

  test('orders are found by id and reference, fifty a page', async () => {
    const placed = [];
    for (let n = 0; n < 51; n += 1) placed.push(await place(ops, { reference: 'many' }));
    const [first] = placed;
    const found = await get(`/orders?q=${first?.id.toUpperCase()}`);
    expect(found.headers.get('location')).toBe(`/orders/${first?.id}`);

    const newest = await page('/orders?q=many&status=pending_payment');
    expect(newest.match(/href="\/orders\/[0-9a-f-]{36}"/g)).toHaveLength(50);
    const [, older = ''] = /href="([^"]+)" rel="next"/.exec(newest) ?? [];
    expect(older).toContain('q=many&amp;status=pending_payment&amp;before=');
    const rest = await page(older.replaceAll('&amp;', '&'));
    expect(rest.match(/href="\/orders\/[0-9a-f-]{36}"/g)).toHaveLength(1);
    expect(rest).toContain(`/orders/${first?.id}`);

    expect(await page('/orders?q=many&status=cancelled')).toContain('No order matches.');
    expect(await page('/orders?q=%00')).toContain('No order matches.');
    expect(await page('/orders?q=a&q=b&status=odd&before=odd')).toContain('<table');
  });

  test('where none of the newest 20,000 orders matches, the page says that older ones were not looked at', async () => {
    const old = await place(ops, { reference: 'long ago' });
    await ops.orders.cancel({ orderId: old.id, reason: 'merchant', actor: 'anna' });
    const pool = openDatabase({ url: database.url, app: 'test', log: createLog('test', 'silent') });
    const newer = "id > 'ffffffff-0000-0000-0000-000000000000'";
    await pool.query(
      `insert into orders (id, partition, channel, payment_method, status, currency, amount, items, metadata,
         created_at, deadline_at, expire_at, check_at, paid_at)
       select ('ffffffff-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 0, 'default', 'card', 'paid', 'EUR', 1,
         items, metadata, created_at, deadline_at, expire_at, check_at, created_at
       from orders, generate_series(1, 20000) n where id = $1`,
      [old.id],
    );
    const newest = await page('/orders?status=cancelled');
    const [, older = ''] = /href="([^"]+)" rel="next"/.exec(newest) ?? [];
    const next = await page(older.replaceAll('&amp;', '&'));
    await pool.query(`delete from orders where ${newer}`);
    await pool.end();

    expect(newest).toContain('No order matches so far; older ones were not looked at yet.');
    expect(newest).not.toContain('<table');
    expect(next).toContain(`/orders/${old.id}`);
    expect(await page(`/orders?q=long%20ago&before=${old.id}`)).toContain('No older order matches.');
  });

  test('the work list shows money that waits for a person, fifty a page', async () => {
    const { id: orderId, amount } = await place(ops);
    const money = { orderId, provider: 'stripe', amount, currency: 'EUR', verified: false, actor: 'stripe' };
    for (let n = 0; n < 55; n += 1) await ops.orders.pay({ ...money, providerPaymentId: `pi_work_${n}` });

    const first = await page('/work');
    expect(first.match(/class="lead"/g)).toHaveLength(50);
    expect(first).toContain(`href="/orders/${orderId}"`);
    const [, next = ''] = /href="([^"]+)" rel="next"/.exec(first) ?? [];
    const second = await page(next);
    expect(second).toContain('pi_work_54');
    expect(second).not.toContain('rel="next"');
    expect(await page('/work?after=odd')).toContain('stripe');
  });

  test.each(['/orders/0198b3c0-0000-7000-8000-000000000000', '/orders/odd', '/nowhere'])(
    '%s is a 404',
    async (path) => {
      const response = await get(path);

      expect(response.status).toBe(404);
      expect(await response.text()).toContain('There is no ');
    },
  );

  test('a path that is no URI and a body that is too large are the client’s fault', async () => {
    expect((await get('/orders/%')).status).toBe(400);
    expect((await ops.fetch('/login', form({ password: 'x'.repeat(10_000) }))).status).toBe(413);
  });

  test('while Redis is away the console goes on', async () => {
    const order = await place(ops);
    const alone = await startOps({ databaseUrl: database.url, redisUrl: 'redis://127.0.0.1:1' });
    const ask = await alone.signIn();
    const overview = await (await ask('/')).text();
    const story = await (await ask(`/orders/${order.id}`)).text();
    await alone.stop();

    expect(overview).toContain('unreachable');
    expect(overview).toContain('the sweeper expires orders meanwhile');
    expect(story).toContain('Redis cannot be reached; the sweeper covers it.');
  });

  test('while PostgreSQL is away there is a plain page, not a stack', async () => {
    const alone = await startOps({ databaseUrl: 'postgres://nobody@127.0.0.1:1/none', redisUrl });
    const response = await (await alone.signIn())('/orders');
    const ready = await alone.fetch('/readyz');
    await alone.stop();

    expect(response.status).toBe(503);
    expect(response.headers.get('retry-after')).toBe('5');
    const body = await response.text();
    expect(body).toContain('PostgreSQL cannot be reached');
    expect(body).not.toMatch(/ECONNREFUSED|at .*\.ts/);
    expect(ready.status).toBe(503);
  });
});

describe('board', () => {
  test('it shows every partition, and those that pending orders still name', async () => {
    const shown = await queues();
    expect(shown.map(({ name }) => name)).toEqual(['partition 0', 'partition 1', 'reminders']);
    expect(shown.map(({ readOnlyMode }) => readOnlyMode)).toEqual([true, true, true]);

    // As after a smaller LAPSE_PARTITIONS.
    const more = await startOps({ databaseUrl: database.url, redisUrl, partitionCount: 1 });
    expect(more.board.partitions()).toEqual([0]);
    await more.board.refresh();
    expect(more.board.partitions()).toEqual([0, 1]);
    expect(await queues('', await more.signIn())).toHaveLength(3);
    await more.stop();
  });

  test('its page is served with its configuration', async () => {
    const response = await get('/queues/');
    const body = await response.text();

    expect(body).toContain('<title>Lapse</title>');
    expect(body).toContain('"showWorkers":false');
    expect(body).toContain('"forceInterval":5');
    expect(response.headers.get('x-powered-by')).toBeNull();
    expect(response.headers.get('content-security-policy')).toContain("script-src 'self';");
  });

  test('delayed jobs come in pages, the next to fire first, each with its order', async () => {
    const late = await place(ops, { paymentWindowMs: 3_600_000 });
    const list = async (pageNumber: number, jobsPerPage: number) => {
      const query = `?activeQueue=partition%20${late.partition}&status=delayed&jobsPerPage=${jobsPerPage}&page=${pageNumber}`;
      const shown = await queues(query);
      return shown.find(({ name }) => name === `partition ${late.partition}`);
    };
    const first = await list(1, 2);
    const last = await list(first?.pagination.pageCount ?? 0, 2);

    expect(first?.jobs).toHaveLength(2);
    const [next] = first?.jobs ?? [];
    expect(next?.externalUrl).toEqual({ href: `/orders/${next?.id}`, displayText: 'Open order' });
    expect(last?.jobs.at(-1)?.id).toBe(late.id);
  });

  test('no more than 300 jobs are read at once, however many are asked for', async () => {
    const createdAt = new Date();
    const expireAt = new Date(Date.now() + 3_600_000);
    const many = Array.from({ length: 310 }, () => ({
      orderId: randomUUID(),
      partition: 0,
      createdAt,
      expireAt,
    }));
    await ops.deadlines.armMany(many);
    const [shown] = await queues('?activeQueue=partition%200&status=delayed&jobsPerPage=1000000');

    expect(shown?.jobs).toHaveLength(300);
    await Promise.all(many.map((deadline) => ops.deadlines.disarm(deadline)));
  });

  test('a job has its state without a search through lists', async () => {
    const order = await place(ops);
    const queue = ops.deadlines.queue(order.partition);
    await queue.add('expire', {}, { jobId: 'waits' });

    const path = `/queues/partition%20${order.partition}`;
    expect(await json(`${path}/${order.id}`)).toMatchObject({ status: 200, body: { status: 'delayed' } });
    expect(await json(`${path}/waits`)).toMatchObject({ status: 200, body: { status: 'waiting' } });
    expect(await json(`${path}/waits/flow`)).toMatchObject({ status: 200, body: { isFlowNode: false } });
    await queue.remove('waits');
    expect((await json(`${path}/waits`)).status).toBe(404);
    expect((await json('/job-schedulers')).body).toEqual({ schedulers: [] });
  });

  test('nothing can be changed through it', async () => {
    const { id, partition } = await place(ops);
    const queue = `/queues/api/queues/partition%20${partition}`;
    const changes: [method: string, path: string][] = [
      ['PUT', '/queues/api/queues/pause'],
      ['PUT', `${queue}/pause`],
      ['PUT', `${queue}/promote`],
      ['PUT', `${queue}/empty`],
      ['PUT', `${queue}/obliterate`],
      ['PUT', `${queue}/clean/delayed`],
      ['PUT', `${queue}/${id}/clean`],
      ['PUT', `${queue}/${id}/promote`],
      ['PATCH', `${queue}/${id}/delay`],
      ['POST', `${queue}/add`],
    ];
    for (const [method, path] of changes) expect((await get(path, { method })).status, path).toBe(405);

    expect(await ops.deadlines.inspect({ orderId: id, partition })).toMatchObject({ state: 'delayed' });
    expect(await ops.deadlines.queue(partition).isPaused()).toBe(false);
  });
});

describe('as a process', () => {
  const root = fileURLToPath(new URL('../../..', import.meta.url));

  test('it starts, tells its health to everybody, and stops in good order', async () => {
    const app = await spawnApp({ app: 'ops', root, env: env() });
    const health = await Promise.all(
      ['/healthz', '/readyz', '/metrics'].map((path) => fetch(app.url + path)),
    );
    const heads = await Promise.all(
      ['/healthz', '/readyz'].map((path) => fetch(app.url + path, { method: 'HEAD' })),
    );
    const overview = await fetch(`${app.url}/`, { headers: html, redirect: 'manual' });
    const { code } = await app.stop();

    expect(health.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect(heads.map(({ status }) => status)).toEqual([200, 200]);
    expect(await health[2]?.text()).toContain('process_cpu_seconds_total');
    expect(overview.status).toBe(303);
    expect(code).toBe(0);
  });

  test('without its password it does not start, and says why', async () => {
    await expect(spawnApp({ app: 'ops', root, env: { ...env(), LAPSE_OPS_PASSWORD: '' } })).rejects.toThrow(
      'LAPSE_OPS_PASSWORD is required',
    );
  });
});
