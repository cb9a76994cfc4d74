import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { createClient, type LapseClient, type Order } from '@lapse/client';
import { createTestDatabase, freePort, waitFor } from '@lapse/devstack';
import { createLog, openDatabase, type Database } from '@lapse/runtime';
import { afterEach, describe, expect, inject, test } from 'vitest';

import { root } from '../root.ts';

const folders: string[] = [];
const started: Local[] = [];

afterEach(async () => {
  for (const local of started.splice(0)) local.signalGroup('SIGKILL');
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true, maxRetries: 5 });
});

/** A folder for data, with a space in its name, that PostgreSQL's user may enter. */
async function dataFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'lapse local '));
  folders.push(folder);
  await chmod(folder, 0o755);
  return folder;
}

/** A process and its parent, as /proc tells. A zombie is none. */
interface Process {
  readonly pid: number;
  readonly parent: number;
  /** Tells a process from a later one with the same pid. */
  readonly startedAt: string;
}

async function processes(): Promise<Process[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid): Promise<Process[]> => {
      const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
      if (stat === undefined) return [];
      const [state, parent, ...rest] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return state === 'Z' ? [] : [{ pid: Number(pid), parent: Number(parent), startedAt: rest[17] ?? '' }];
    }),
  );
  return found.flat();
}

/** Those that `pid` started, and those that they started. */
async function descendantsOf(pid: number): Promise<Process[]> {
  const all = await processes();
  const family = new Set([pid]);
  for (let size = 0; size !== family.size;) {
    size = family.size;
    for (const one of all) if (family.has(one.parent)) family.add(one.pid);
  }
  family.delete(pid);
  return all.filter((one) => family.has(one.pid));
}

async function stillRunning(family: readonly Process[]): Promise<Process[]> {
  const all = await processes();
  return family.filter(({ pid, startedAt }) =>
    all.some((one) => one.pid === pid && one.startedAt === startedAt),
  );
}

/** The process of an app that `pid` started, once there is one that is not `former`. */
function appOf(pid: number, app: 'api' | 'worker', former?: Process): Promise<Process> {
  const find = async (): Promise<Process | undefined> => {
    for (const one of await descendantsOf(pid)) {
      const command = await readFile(`/proc/${one.pid}/cmdline`, 'utf8').catch(() => '');
      if (one.pid !== former?.pid && command.includes(`apps/${app}/src/main.ts`)) return one;
    }
    return undefined;
  };
  return waitFor(find, { what: `an ${app}`, timeoutMs: 20_000 });
}

/** What a process was started with. */
async function environmentOf({ pid }: Process): Promise<Record<string, string>> {
  const entries = (await readFile(`/proc/${pid}/environ`, 'utf8')).split('\0');
  return Object.fromEntries(
    entries.map((entry): [string, string] => {
      const [name = '', ...value] = entry.split('=');
      return [name, value.join('=')];
    }),
  );
}

/** Runs `work` on a database of a server. */
async function onDatabase<Result>(
  url: string,
  work: (database: Database) => Promise<Result>,
): Promise<Result> {
  const database = openDatabase({ url, app: 'test', log: createLog('test', 'error'), max: 1 });
  try {
    return await work(database);
  } finally {
    await database.end();
  }
}

/** `start` or `demo`, run as a shell would: the leader of a process group of its own. */
class Local {
  readonly #child: ChildProcess;
  readonly pid: number;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  output = '';

  constructor(script: 'start' | 'demo', env: Readonly<Record<string, string>>) {
    const { PATH, HOME, TMPDIR, XDG_CACHE_HOME } = process.env;
    const machine = Object.entries({ PATH, HOME, TMPDIR, XDG_CACHE_HOME }).filter(
      ([, value]) => value !== undefined,
    );
    this.#child = spawn(process.execPath, [join(root, 'apps/local/src', `${script}.ts`)], {
      cwd: root,
      detached: true,
      env: { ...Object.fromEntries(machine), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    if (this.#child.pid === undefined) throw new Error(`${script} was not started`);
    this.pid = this.#child.pid;
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    }
    this.exited = once(this.#child, 'close').then(([code, signal]: unknown[]) => ({
      code: code as number | null,
      signal: signal as NodeJS.Signals | null,
    }));
    started.push(this);
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** What a terminal's Ctrl-C does: the signal goes to everybody in the group. */
  signalGroup(name: NodeJS.Signals): void {
    try {
      process.kill(-this.pid, name);
    } catch {
      // All have ended.
    }
  }
}

const secret = `whsec_${Buffer.alloc(32, 'local').toString('base64')}`;

const freePorts = { LAPSE_API_PORT: '0', LAPSE_OPS_PORT: '0', LAPSE_WORKER_PORT: '0' };

interface Running {
  readonly local: Local;
  readonly client: LapseClient;
  readonly opsUrl: string;
  readonly family: readonly Process[];
}

/** Runs `start` until it has said everything. */
async function start(dataDir: string, env: Readonly<Record<string, string>> = {}): Promise<Running> {
  const local = new Local('start', { LAPSE_DATA_DIR: dataDir, ...freePorts, ...env });
  const hasEnded = local.exited.then(() => true);
  const isUp = await Promise.race([
    waitFor(() => local.output.includes('/timeline'), { what: '`start` to be up', timeoutMs: 60_000 }).then(
      () => true,
    ),
    hasEnded.then(() => false),
  ]);
  if (!isUp) throw new Error(`\`start\` ended:\n${local.output}`);
  const [, baseUrl = '', apiKey = ''] = /api +(http\S+) +key +(\S+)/.exec(local.output) ?? [];
  const [, opsUrl = ''] = /console +(http\S+) +user ops, password \S+/.exec(local.output) ?? [];
  return { local, client: createClient({ baseUrl, apiKey }), opsUrl, family: await descendantsOf(local.pid) };
}

const buyMug = (client: LapseClient, paymentWindowMs: number) =>
  client.checkout({
    currency: 'EUR',
    items: [{ sku: 'mug', quantity: 1, unitAmount: 1250 }],
    paymentWindowMs,
  });

/** Opens an attempt with the sandbox, pays on its page as a browser would, and waits until the order is paid. */
async function payOnPage(client: LapseClient, { id }: Order): Promise<void> {
  const { url } = await client.openAttempt(id, { provider: 'sandbox' });
  const page = await fetch(url ?? '');
  expect(await page.text()).toContain(`for order ${id}`);
  await (await fetch(url ?? '', { method: 'POST', redirect: 'manual' })).arrayBuffer();
  await waitFor(async () => (await client.order(id)).status === 'paid', { what: 'the order to be paid' });
}

const gone = { what: 'every process to be gone', timeoutMs: 5000 };

describe('start', () => {
  test('runs the whole system, once in a folder; Ctrl-C ends all of it, also what is just being started again; starting again finds the same orders', async () => {
    const dataDir = await dataFolder();
    const first = await start(dataDir);
    // The api, ops, two workers, PostgreSQL, Redis and the watchdog, at least.
    expect(first.family.length).toBeGreaterThanOrEqual(7);
    expect((await fetch(`${first.opsUrl}/healthz`)).status).toBe(200);
    const lasting = await buyMug(first.client, 3_600_000);
    const due = await buyMug(first.client, 1000);
    const paidThere = await buyMug(first.client, 3_600_000);
    await payOnPage(first.client, paidThere);
    const another = new Local('start', { LAPSE_DATA_DIR: dataDir, ...freePorts });
    await waitFor(async () => (await first.client.order(due.id)).status === 'cancelled', {
      what: 'an order to lapse',
    });
    expect(await another.exited).toEqual({ code: 1, signal: null });
    expect(another.output).toContain('in use, perhaps by another `start`');
    expect(another.output).not.toMatch(/^ +at /m);
    // The page of this one is gone with the sandbox.
    const left = await buyMug(first.client, 10_000);
    await first.client.openAttempt(left.id, { provider: 'sandbox' });
    first.local.signalGroup('SIGINT');
    expect(await first.local.exited).toEqual({ code: 0, signal: null });
    expect(first.local.output).toContain(`The data stays in ${join(dataDir, 'start')}`);
    expect(await stillRunning(first.family)).toEqual([]);

    const second = await start(dataDir);
    expect(await second.client.order(lasting.id)).toMatchObject({
      status: 'pending_payment',
      deadlineAt: lasting.deadlineAt,
    });
    // Redis kept the job as well.
    expect((await second.client.timeline(lasting.id)).job).toEqual({
      state: 'delayed',
      firesAt: lasting.deadlineAt,
    });
    await waitFor(async () => (await second.client.order(left.id)).status === 'cancelled', {
      what: 'the order with a forgotten page to lapse',
      timeoutMs: 20_000,
    });
    // One is sold, one is held.
    expect(await second.client.stock('mug')).toMatchObject({ onHand: 99, held: 1 });
    const { pid } = second.local;
    const api = await appOf(pid, 'api');
    const { DATABASE_URL = '' } = await environmentOf(api);
    process.kill(api.pid, 'SIGKILL');
    await appOf(pid, 'api', api);
    // Once it has reached PostgreSQL it becomes ready, whatever happens to that.
    await onDatabase(DATABASE_URL, (database) =>
      waitFor(
        async () =>
          (await database.query("select from pg_stat_activity where application_name = 'lapse-api'"))
            .rowCount,
        { what: 'the api to reach PostgreSQL' },
      ),
    );
    const family = await descendantsOf(pid);
    second.local.signal('SIGINT');
    expect(await second.local.exited).toEqual({ code: 0, signal: null });
    await waitFor(async () => (await stillRunning(family)).length === 0, gone);
  }, 120_000);

  test('that is killed leaves nothing behind, and starts again as if nothing had been', async () => {
    const dataDir = await dataFolder();
    const first = await start(dataDir);
    const lasting = await buyMug(first.client, 3_600_000);
    first.local.signal('SIGKILL');
    await waitFor(async () => (await stillRunning(first.family)).length === 0, gone);

    const second = await start(dataDir);
    expect((await second.client.order(lasting.id)).status).toBe('pending_payment');
    second.local.signal('SIGTERM');
    expect(await second.local.exited).toEqual({ code: 0, signal: null });
    expect(await stillRunning(second.family)).toEqual([]);
  }, 120_000);

  test('that is interrupted while it starts ends all the same', async () => {
    const local = new Local('start', { LAPSE_DATA_DIR: await dataFolder(), ...freePorts });
    const family = await waitFor(
      async () => [await descendantsOf(local.pid)].find(({ length }) => length > 0 && local.output !== ''),
      { what: 'its first child', timeoutMs: 20_000 },
    );
    local.signalGroup('SIGINT');
    expect(await local.exited).toEqual({ code: 0, signal: null });
    expect(await stillRunning(family)).toEqual([]);
  }, 60_000);

  test('hands its settings on to the apps; where it cannot go on once they run, it ends them', async () => {
    const own = await createTestDatabase({
      adminUrl: inject('databaseUrl'),
      template: inject('templateDatabase'),
    });
    try {
      // The apps start, but what `start` then asks the api for fails.
      await onDatabase(own.url, (database) => database.query('alter table stock rename to lost'));
      const settings = {
        LAPSE_PARTITIONS: '2',
        LAPSE_BRAKE_ORDERS: '3',
        LAPSE_BRAKE_SHARE: '0.4',
        LAPSE_RETENTION_DAYS: '5',
        LAPSE_TRUST_PROXY: '6',
        LAPSE_HOST: 'localhost',
        LAPSE_FREEZE_ON_PROVIDER_FAILURE: '60',
        LAPSE_STRIPE_SECRET_KEY: 'sk_test_0123456789',
        LAPSE_STRIPE_WEBHOOK_SECRET: 'whsec_0123456789',
        LAPSE_HTTP_PROVIDER_URL: 'https://pay.example/lapse',
        LAPSE_HTTP_PROVIDER_SECRET: secret,
        // Instead of the one that would be started.
        LAPSE_SANDBOX_PROVIDER_URL: 'http://127.0.0.1:1',
        LAPSE_SANDBOX_PROVIDER_SECRET: secret,
        LAPSE_PROVIDER_RATE: '7',
      };
      const local = new Local('start', {
        LAPSE_DATA_DIR: await dataFolder(),
        DATABASE_URL: own.url,
        // More than this is printed; the apps are told to log what says that they are ready.
        LAPSE_LOG_LEVEL: 'error',
        LAPSE_POLICIES: 'deploy/policies.example.json',
        ...freePorts,
        ...settings,
      });
      const worker = await appOf(local.pid, 'worker');
      expect(await environmentOf(worker)).toMatchObject({
        ...settings,
        LAPSE_LOG_LEVEL: 'info',
        LAPSE_POLICIES: join(root, 'deploy/policies.example.json'),
      });
      expect(await local.exited).toEqual({ code: 1, signal: null });
      expect(local.output).toContain('LapseError');
      expect(local.output).not.toContain('Lapse is running');
      expect(await stillRunning([worker])).toEqual([]);
    } finally {
      await own.drop();
    }
  }, 60_000);

  test.each(['LAPSE_API_PORT', 'LAPSE_OPS_PORT'])('says in a line that %s is taken', async (variable) => {
    const port = await freePort();
    const server = createServer().listen({ port, host: '127.0.0.1' });
    await once(server, 'listening');
    try {
      const local = new Local('start', {
        LAPSE_DATA_DIR: await dataFolder(),
        [variable]: String(port),
        ...(await otherPort(variable)),
      });
      expect(await local.exited).toEqual({ code: 1, signal: null });
      expect(local.output.trim().split('\n')).toEqual([expect.stringContaining(`Port ${port} is taken`)]);
      expect(local.output).toContain(variable);
    } finally {
      server.close();
    }
  });

  test('says which settings are wrong, all at once', async () => {
    const wrong = {
      LAPSE_API_PORT: 'x',
      LAPSE_API_KEY: 'short',
      LAPSE_PARTITIONS: '0',
      LAPSE_BRAKE_ORDERS: '-1',
      LAPSE_BRAKE_SHARE: '1',
      LAPSE_RETENTION_DAYS: '-1',
      LAPSE_TRUST_PROXY: 'yes',
      LAPSE_LOG_LEVEL: 'loud',
      LAPSE_STRIPE_SECRET_KEY: 'pk_test_0123456789',
      LAPSE_HTTP_PROVIDER_URL: 'pay.example',
    };
    const local = new Local('start', { LAPSE_DATA_DIR: await dataFolder(), ...wrong });
    expect(await local.exited).toEqual({ code: 1, signal: null });
    const named = [...local.output.matchAll(/^ {2}- (\S+)/gm)].map(([, variable]) => variable);
    expect(new Set(named)).toEqual(new Set(Object.keys(wrong)));
    expect(local.output).not.toMatch(/^ +at /m);
  });

  test('says that the file of its secrets was cut off, and how to mend it', async () => {
    const dataDir = await dataFolder();
    const file = join(dataDir, 'start', 'secrets.json');
    await mkdir(join(dataDir, 'start'));
    await writeFile(file, '{\n  "apiKey": "lapse_');
    const local = new Local('start', { LAPSE_DATA_DIR: dataDir, ...freePorts });
    expect(await local.exited).toEqual({ code: 1, signal: null });
    expect(local.output).toBe(`${file} is not what was written there. Remove it to draw new secrets.\n`);
  });

  test('says that its data folder is a file', async () => {
    const file = join(await dataFolder(), 'file');
    await writeFile(file, '');
    const local = new Local('start', { LAPSE_DATA_DIR: file, ...freePorts });
    expect(await local.exited).toEqual({ code: 1, signal: null });
    expect(local.output).toMatch(/^.* cannot hold the data: ENOTDIR.*\. Set LAPSE_DATA_DIR to .*\n$/);
  });
});

async function otherPort(variable: string): Promise<Record<string, string>> {
  return { [variable === 'LAPSE_API_PORT' ? 'LAPSE_OPS_PORT' : 'LAPSE_API_PORT']: String(await freePort()) };
}

test('the demo ends by itself within a minute, every order as it should, every invariant held', async () => {
  const local = new Local('demo', { NO_COLOR: '1' });
  const timer = setTimeout(() => local.signalGroup('SIGKILL'), 60_000);
  const { code } = await local.exited;
  clearTimeout(timer);
  expect({ code, output: local.output }).toMatchObject({
    code: 0,
    output: expect.stringContaining('\nInvariants\n'),
  });
  expect(local.output).not.toContain('✗');
  expect(local.output).toContain('✓ held stock is what pending orders hold');
  expect(local.output).toContain('Every order ended as it should.');
  for (const happened of [
    /✓ pays on the page of a payment provider +paid/,
    /✓ pays on it at the last moment, while the order is being closed +closing, then paid/,
    /✓ never pays; the provider is away at first.* +unknown, cancelled, page closed/,
    /✓ cancels, and pays on a page that is open still.* +refund due, then confirmed/,
  ])
    expect(local.output).toMatch(happened);
  expect(local.output.match(/^✓/gm)?.length).toBeGreaterThan(25);
}, 90_000);

test('the demo uses a Redis of its own; interrupted, it leaves neither folder nor database behind', async () => {
  const folder = await dataFolder();
  const adminUrl = inject('databaseUrl');
  const redisUrl = `redis://127.0.0.1:${await freePort()}`;
  const local = new Local('demo', {
    NO_COLOR: '1',
    TMPDIR: folder,
    DATABASE_URL: adminUrl,
    REDIS_URL: redisUrl,
  });
  await waitFor(() => local.output.includes('✓'), { what: 'the first story to end', timeoutMs: 30_000 });
  const family = await descendantsOf(local.pid);
  const { DATABASE_URL = '', REDIS_URL } = await environmentOf(await appOf(local.pid, 'api'));
  local.signalGroup('SIGINT');
  expect(await local.exited).toEqual({ code: 130, signal: null });
  await waitFor(async () => (await stillRunning(family)).length === 0, gone);

  expect(REDIS_URL).not.toBe(redisUrl);
  expect(local.output).toContain('REDIS_URL is not used');
  expect(await readdir(folder)).toEqual([]);
  const name = new URL(DATABASE_URL).pathname.slice(1);
  expect(name).toMatch(/^test_/);
  const { rows } = await onDatabase(adminUrl, (database) =>
    database.query('select datname from pg_database where datname = $1', [name]),
  );
  expect(rows).toEqual([]);
  expect(local.output).not.toMatch(/✗|^ +at /m);
}, 60_000);
