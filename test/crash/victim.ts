import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { compileCache, spawnGuarded, waitFor } from '@lapse/devstack';
import { expect } from 'vitest';

import { root } from '../root.ts';

/** Longest until a process has started, or halts, ms. */
const patienceMs = 20_000;

/** A process of real code with a port that halts it: it tells where it stands, and waits to be killed. */
export interface Victim {
  /** Where it listens, if it is an api; resolves when it does, and has found Redis. */
  url(): Promise<string>;
  /** Waits until it has halted; `times`: so many of its calls, 1 unless said otherwise. */
  untilHalted(times?: number): Promise<void>;
  /** SIGKILL; `when: 'halted'` waits for that first. Again: no harm. */
  kill(options?: { when: 'halted'; times?: number }): Promise<void>;
}

/** An app itself, on ports that halt it, or one of the programs in `victims/`. */
export type Role = keyof typeof apps | 'fire' | 'steps' | 'migrate';

const apps = { api: 'apps/api/src/main.ts', worker: 'apps/worker/src/main.ts' } as const;

/**
 * Starts a process that halts.
 *
 * @param point where it is to halt: a call, and `before` or `after` it
 */
export async function startVictim(
  role: Role,
  point: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Victim> {
  const name = [role, ...point].join(' ');
  let url: string | undefined;
  let haltedCount = 0;
  const child = await spawnGuarded(process.execPath, commandOf(role, point), {
    name,
    cwd: root,
    env: { ...compileCache(root), ...env },
    onLine(line) {
      if (line.startsWith('{"halted":')) haltedCount += 1;
      const port = /"port":(\d+),"msg":"ready"/.exec(line)?.[1];
      if (port !== undefined) url = `http://127.0.0.1:${port}`;
    },
  });
  const waitWhileRunning = <T>(what: string, look: () => T) =>
    waitFor(
      () => {
        const seen = look();
        if (!seen && !child.isRunning()) throw new Error(`${name} ended:\n${child.logs().join('\n')}`);
        return seen;
      },
      { what: `${name} to ${what}`, timeoutMs: patienceMs },
    );
  const untilHalted = async (times = 1): Promise<void> => {
    await waitWhileRunning('halt', () => haltedCount >= times);
  };
  return {
    async url() {
      const found = await waitWhileRunning('listen', () => url);
      await waitFor(() => hasRedis(found), { what: `${name} to find redis`, timeoutMs: patienceMs });
      return found;
    },
    untilHalted,
    async kill(options) {
      if (options?.when === 'halted') await untilHalted(options.times);
      const wasRunning = child.isRunning();
      child.kill('SIGKILL');
      const { signal } = await child.exited;
      if (wasRunning) expect(signal).toBe('SIGKILL');
    },
  };
}

async function hasRedis(url: string): Promise<boolean> {
  const readiness: unknown = await (await fetch(`${url}/readyz`)).json();
  return Object(readiness).redis === 'ok';
}

function commandOf(role: Role, point: readonly string[]): string[] {
  const victims = join(root, 'test', 'crash', 'victims');
  if (role !== 'api' && role !== 'worker') return [join(victims, `${role}.ts`), ...point];
  const ports = pathToFileURL(join(victims, 'halting-app.ts'));
  const [call = '', moment = ''] = point;
  ports.search = new URLSearchParams({ call, moment }).toString();
  return ['--import', ports.href, join(root, apps[role])];
}
