import { type ChildProcess, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import { join } from 'node:path';

const entry = join(import.meta.dirname, 'main.ts');
const maxStarts = 5;

/** What this process has asked to be guarded: pid and the signal that stops it. */
const guards = new Map<number, NodeJS.Signals>();
let watchdog: ChildProcess | undefined;
let startCount = 0;

/**
 * Asks this process's watchdog, started at the first call, to stop `pid` with `signal` should this process end without
 * `release(pid)`, and to kill it 2.5 s later. Resolves when the request can no longer be lost, even by `kill -9`.
 *
 * @throws Error when no watchdog can be started
 */
export async function guard(pid: number, signal: NodeJS.Signals): Promise<void> {
  guards.set(pid, signal);
  const line = `guard ${pid} ${signal}`;
  try {
    await tell(line);
  } catch {
    // The watchdog ended just now, and there is a new one.
    await tell(line);
  }
}

/** Takes back `guard(pid, …)`, because the process ended. */
export function release(pid: number): void {
  // A watchdog that is gone has nothing to forget.
  if (guards.delete(pid)) watchdog?.stdin?.write(`release ${pid}\n`);
}

function tell(line: string): Promise<void> {
  const pipe = runningWatchdog().stdin;
  return new Promise((resolve, reject) => {
    if (pipe === null) reject(new Error('the watchdog has no input'));
    else pipe.write(`${line}\n`, (error) => (error ? reject(error) : resolve()));
  });
}

function runningWatchdog(): ChildProcess {
  if (watchdog !== undefined) return watchdog;
  if (startCount === maxStarts) throw new Error(`the watchdog ended ${maxStarts} times`);
  startCount += 1;
  // Detached, in a session of its own: a terminal's Ctrl-C and hang-up do not reach it. It keeps no folder busy.
  const child = spawn(process.execPath, [entry], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
    cwd: '/',
    env: {},
  });
  watchdog = child;
  child.unref();
  if (child.stdin instanceof Socket) child.stdin.unref();
  for (const end of ['error', 'exit']) child.once(end, () => replace(child));
  // A broken pipe says the same a moment earlier.
  child.stdin?.on('error', () => replace(child));
  return child;
}

/** Somebody killed the watchdog: a new one learns all that the old one knew. */
function replace(ended: ChildProcess): void {
  if (watchdog !== ended) return;
  watchdog = undefined;
  for (const [pid, signal] of guards) {
    Promise.try(tell, `guard ${pid} ${signal}`).catch((error: unknown) => {
      process.emitWarning(`process ${pid} is not guarded: ${String(error)}`);
    });
  }
}
