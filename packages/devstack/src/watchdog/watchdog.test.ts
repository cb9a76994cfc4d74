import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  descendantsOf,
  scratchFolder,
  signal,
  spawnParent,
  stillRunning,
  watchdogOf,
} from '../fixtures/scratch.ts';
import { waitFor } from '../wait-for.ts';
import { spawnGuarded } from './spawn-guarded.ts';

const politeChild = new URL('../fixtures/polite-child.ts', import.meta.url);
const stubbornChild = new URL('../fixtures/stubborn-child.ts', import.meta.url);
const gone = { timeoutMs: 5_000, what: 'every process to be gone' };

describe('when the parent is killed', () => {
  test('a child gets its stop signal', async () => {
    const file = join(await scratchFolder(), 'stopped');
    const parent = spawnParent(politeChild, [file]);
    await parent.nextLine();
    const family = descendantsOf(parent.pid);
    expect(family.length).toBe(2);
    signal(parent.pid, 'SIGKILL');
    await waitFor(() => stillRunning(family).length === 0, gone);
    expect(await readFile(file, 'utf8')).toBe('stopped');
  });

  test('a child that ignores its stop signal is killed with its descendants within 5 s', async () => {
    const parent = spawnParent(stubbornChild, []);
    expect(await parent.nextLine()).toBe('up');
    const family = await waitFor(() => [descendantsOf(parent.pid)].find((pids) => pids.length === 3), {
      what: 'watchdog, child and grandchild',
    });
    signal(parent.pid, 'SIGKILL');
    await waitFor(() => stillRunning(family).length === 0, gone);
  });

  test('a watchdog that was killed before has been replaced', async () => {
    const parent = spawnParent(stubbornChild, []);
    await parent.nextLine();
    const before = descendantsOf(parent.pid);
    const first = await waitFor(() => watchdogOf(parent.pid), { what: 'the watchdog' });
    signal(first, 'SIGKILL');
    await waitFor(() => [watchdogOf(parent.pid)].find((pid) => pid !== first), { what: 'another watchdog' });
    const after = descendantsOf(parent.pid);
    signal(parent.pid, 'SIGKILL');
    await waitFor(() => stillRunning([...before, ...after]).length === 0, gone);
    expect(after.length).toBe(3);
  });
});

test('a parent that ends by itself without stopping its child leaves nothing', async () => {
  const file = join(await scratchFolder(), 'stopped');
  const parent = spawnParent(politeChild, [file, 'leave']);
  await parent.exited;
  const stopped = () => readFile(file, 'utf8').catch(() => '');
  expect(await waitFor(stopped, { what: 'the stop signal' })).toBe('stopped');
});

const node = (code: string) => [process.execPath, ['-e', code]] as const;

describe('a guarded process', () => {
  test('is stopped in good order', async () => {
    let isUp = false;
    const child = await spawnGuarded(
      ...node(`process.on('SIGTERM', () => process.exit(7)); console.log('up'); setInterval(() => {}, 1000)`),
      { name: 'polite', onLine: () => (isUp = true) },
    );
    await waitFor(() => isUp, { what: 'the child' });
    expect(child.isRunning()).toBe(true);
    expect(await child.stop()).toEqual({ code: 7, signal: null });
    expect(child.isRunning()).toBe(false);
    expect(await child.stop()).toEqual({ code: 7, signal: null });
  });

  test('is killed when it does not stop in time, also when it is paused', async () => {
    let isUp = false;
    const child = await spawnGuarded(
      ...node(`process.on('SIGTERM', () => {}); console.log('up'); setInterval(() => {}, 1000)`),
      { name: 'stubborn', onLine: () => (isUp = true) },
    );
    await waitFor(() => isUp, { what: 'the child' });
    child.kill('SIGSTOP');
    expect(await child.stop({ timeoutMs: 100 })).toEqual({ code: null, signal: 'SIGKILL' });
  });

  test('keeps its last 500 lines, and appends all of them to its log file', async () => {
    const logFile = join(await scratchFolder(), 'child.log');
    const child = await spawnGuarded(...node(`for (let i = 1; i <= 600; i++) console.log('line', i)`), {
      name: 'talker',
      logFile,
    });
    expect(await child.exited).toEqual({ code: 0, signal: null });
    expect(child.logs().length).toBe(500);
    expect(child.logs().at(-1)).toBe('line 600');
    const written = await waitFor(
      async () => [await readFile(logFile, 'utf8')].find((text) => text.endsWith('line 600\n')),
      { what: 'the log file' },
    );
    expect(written.split('\n').length).toBe(601);
  });

  test('that cannot be executed says why', async () => {
    const child = await spawnGuarded('/nowhere/to be found', [], { name: 'nothing' });
    expect((await child.exited).code).toBe(127);
    expect(child.logs().join('\n')).toContain('/nowhere/to be found');
  });

  test('is refused when its folder does not exist', async () => {
    await expect(spawnGuarded('true', [], { name: 'lost', cwd: '/nowhere' })).rejects.toThrow('ENOENT');
  });
});
