import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { waitFor } from '@lapse/devstack';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { createLog } from './log.ts';
import { periodic } from './service.ts';

const log = createLog('test', 'silent');

describe('an app', () => {
  const running = new Set<() => void>();
  afterEach(() => {
    for (const kill of running) kill();
  });

  /** Something beside the services that keeps a process alive, as a connection whose peer is silent does. */
  const lingering = '--import=data:text/javascript,setInterval(()=>undefined,1000)';

  /** Runs services in a process of their own; behaviours as in the fixture. What begins with `--` is for Node. */
  function start(...services: string[]) {
    const { nodeArguments = [], behaviours = [] } = Object.groupBy(services, (argument) =>
      argument.startsWith('--') ? 'nodeArguments' : 'behaviours',
    );
    const child = spawn(
      process.execPath,
      [...nodeArguments, fileURLToPath(new URL('fixtures/app.ts', import.meta.url)), ...behaviours],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    const steps: string[] = [];
    const logged: Record<string, unknown>[] = [];
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (line.startsWith('{')) logged.push(JSON.parse(line));
      else steps.push(line);
    });
    const kill = () => child.kill('SIGKILL');
    running.add(kill);
    const closed = once(child, 'close').then(([code, signal]) => {
      running.delete(kill);
      return { code, signal };
    });
    return {
      steps,
      logged,
      closed,
      signal: (signal: NodeJS.Signals) => child.kill(signal),
      say: (line: string) => child.stdin.write(line),
      step: (step: string) => waitFor(() => steps.includes(step), { what: `"${step}"`, timeoutMs: 20_000 }),
      message: (message: string) =>
        waitFor(() => logged.some(({ msg }) => msg === message), { what: `"${message}"`, timeoutMs: 20_000 }),
    };
  }

  test.each(['SIGTERM', 'SIGINT'] as const)(
    'starts its services in order and stops them in reverse on %s',
    async (signal) => {
      const app = start('a:ok', 'b:ok', 'c:ok');
      await app.step('running');
      app.signal(signal);
      expect(await app.closed).toEqual({ code: 0, signal: null });
      expect(app.steps.join(', ')).toBe(
        [
          'start a, started a, start b, started b, start c, started c, running',
          'stop c, stopped c, stop b, stopped b, stop a, stopped a',
        ].join(', '),
      );
      expect(app.logged.map(({ msg }) => msg)).toEqual(['stopping', 'stopped']);
    },
  );

  test('whose services have stopped ends, whatever else would keep it alive', async () => {
    const app = start(lingering, 'a:ok');
    await app.step('running');
    app.signal('SIGTERM');
    expect(await app.closed).toEqual({ code: 0, signal: null });
    expect(app.logged.map(({ msg }) => msg)).toEqual(['stopping', 'stopped']);
  });

  test('ends at once on a second signal', async () => {
    const app = start('a:ok', 'b:hangs-at-stop');
    await app.step('running');
    app.signal('SIGTERM');
    await app.step('stop b');
    app.signal('SIGTERM');
    expect(await app.closed).toEqual({ code: 1, signal: null });
    expect(app.steps).not.toContain('stop a');
    expect(app.logged.map(({ msg }) => msg)).toContain('second signal, ending at once');
  });

  test('whose service cannot start stops those that did, says why and exits with 1', async () => {
    const app = start(lingering, 'a:ok', 'b:fails-to-start', 'c:ok');
    expect(await app.closed).toEqual({ code: 1, signal: null });
    expect(app.steps.filter((step) => !step.endsWith(' b'))).toEqual([
      'start a',
      'started a',
      'stop a',
      'stopped a',
    ]);
    expect(app.logged).toMatchObject([
      { level: 'fatal', service: 'b', err: { message: 'b has no port' }, msg: 'service could not start' },
    ]);
  });

  test('whose service cannot stop stops the others all the same and exits with 1', async () => {
    const app = start('a:ok', 'b:fails-to-stop');
    await app.step('running');
    app.signal('SIGTERM');
    expect(await app.closed).toEqual({ code: 1, signal: null });
    expect(app.steps).toContain('stopped a');
    expect(app.logged).toContainEqual(
      expect.objectContaining({ level: 'error', service: 'b', msg: 'service failed to stop' }),
    );
  });

  test('that is told to stop while a service starts begins no further one and ends when that one has started', async () => {
    const app = start('a:ok', 'b:starts-late', 'c:ok');
    await app.step('start b');
    app.signal('SIGTERM');
    await app.message('stopping');
    app.say('go on');
    expect(await app.closed).toEqual({ code: 0, signal: null });
    expect(app.steps).not.toContain('start c');
    expect(app.steps.lastIndexOf('stopped b')).toBeGreaterThan(app.steps.indexOf('started b'));
    expect(app.steps).toContain('stopped a');
  });
});

describe('a periodic task', () => {
  test('runs again and again until it is stopped', async () => {
    let runs = 0;
    const service = periodic({
      name: 'test',
      everyMs: 1,
      log,
      task: () => {
        runs += 1;
        return Promise.resolve();
      },
    });
    await service.start();
    await waitFor(() => runs >= 3, { what: 'three runs' });
    await service.stop();
    const atStop = runs;
    await new Promise((resolve) => setImmediate(resolve));
    expect(runs).toBe(atStop);
  });

  test('that fails is counted and runs again', async () => {
    let runs = 0;
    const onError = vi.fn<() => void>();
    const service = periodic({
      name: 'test',
      everyMs: 1,
      log,
      onError,
      task: () => {
        runs += 1;
        return runs === 1 ? Promise.reject(new Error('the first one')) : Promise.resolve();
      },
    });
    await service.start();
    await waitFor(() => runs >= 2, { what: 'two runs' });
    await service.stop();
    expect(onError).toHaveBeenCalledTimes(1);
  });

  test('does not wait out its pause when it is stopped, and waits for the run under way', async () => {
    const steps: string[] = [];
    const service = periodic({
      name: 'test',
      everyMs: 3_600_000,
      log,
      task: async (signal) => {
        steps.push('run');
        await once(signal, 'abort');
        await new Promise((resolve) => setImmediate(resolve));
        steps.push('end');
      },
    });
    await service.start();
    await service.stop();
    expect(steps).toEqual(['run', 'end']);

    const paused = periodic({ name: 'test', everyMs: 3_600_000, log, task: () => Promise.resolve() });
    await paused.start();
    await new Promise((resolve) => setImmediate(resolve));
    await expect(paused.stop()).resolves.toBeUndefined();
  });

  test('that was never started can be stopped', async () => {
    const service = periodic({ name: 'test', everyMs: 1, log, task: () => Promise.resolve() });
    await expect(service.stop()).resolves.toBeUndefined();
  });
});
