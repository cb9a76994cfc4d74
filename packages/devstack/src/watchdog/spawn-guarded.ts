import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { guard, release } from './watchdog.ts';

/** How a program is to be started. */
export interface SpawnOptions {
  /** What to call it in messages. */
  readonly name: string;
  /** Default: the root folder. */
  readonly cwd?: string;
  /** All of its environment; default: empty. */
  readonly env?: Readonly<Record<string, string>>;
  /** Run it as this user and group (needs root). */
  readonly uid?: number;
  readonly gid?: number;
  /** The signal that ends it in good order; default `SIGTERM`. */
  readonly stopSignal?: NodeJS.Signals;
  /** A file that its output is appended to. */
  readonly logFile?: string;
  /** Hears each line of its output and error output. */
  readonly onLine?: (line: string) => void;
}

/** How a program ended: with a code, or by a signal. */
export interface ProcessExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A running program that never outlives this process. */
export interface GuardedProcess {
  readonly name: string;
  readonly pid: number;
  /** Resolves when it has ended; never rejects. */
  readonly exited: Promise<ProcessExit>;
  /** Whether it has not ended yet. */
  isRunning(): boolean;
  /** Its last 500 lines. */
  logs(): string[];
  /** Ends it in good order, and with SIGKILL after `timeoutMs` (default 10,000). Again, or too late: no harm. */
  stop(options?: { readonly timeoutMs?: number }): Promise<ProcessExit>;
  /** Sends a signal, SIGKILL to its whole process group. Does nothing when it has ended. */
  kill(signal: NodeJS.Signals): void;
}

const keptLineCount = 500;

// The program starts only once the watchdog knows its pid: were this process killed between the two, `read` would see
// the end of its input and nothing would start. The pid stays the same through exec.
const waitForGuard = 'read -r go && exec "$@" </dev/null';

/**
 * Starts a program under the watchdog: when this process ends, in whatever way, the program gets its stop signal and, 2.5 s
 * later, SIGKILL. It leads a process group of its own, so that a terminal's Ctrl-C reaches this process only.
 *
 * A command that cannot be executed shows as exit code 126 or 127 with the shell's reason in `logs()`.
 *
 * @throws Error when `cwd` does not exist, `uid` may not be taken, or no watchdog can be started
 */
export async function spawnGuarded(
  command: string,
  args: readonly string[],
  options: SpawnOptions,
): Promise<GuardedProcess> {
  const { name, cwd = '/', env = {}, uid, gid, stopSignal = 'SIGTERM', logFile, onLine } = options;
  const child = spawn('/bin/sh', ['-c', waitForGuard, 'sh', command, ...args], {
    cwd,
    env,
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(uid === undefined ? {} : { uid }),
    ...(gid === undefined ? {} : { gid }),
  });
  const lines: string[] = [];
  const log = logFile === undefined ? undefined : createWriteStream(logFile, { flags: 'a' });
  log?.on('error', (error) => lines.push(`${name}: cannot write ${logFile}: ${error.message}`));
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      lines.push(line);
      if (lines.length > keptLineCount) lines.shift();
      log?.write(`${line}\n`);
      onLine?.(line);
    });
  }
  child.stdin.on('error', () => {
    // It ended before it was let go: `exited` tells.
  });
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const exited = new Promise<ProcessExit>((resolve) => {
    child.once('exit', (code, signal) => {
      if (child.pid !== undefined) release(child.pid);
      // Its last lines are read before anybody acts on its end; a grandchild may hold the pipes open for longer.
      void Promise.race([closed, sleep(250)]).then(() => {
        log?.end();
        resolve({ code, signal });
      });
    });
  });

  await once(child, 'spawn');
  const { pid } = child;
  if (pid === undefined) throw new Error(`${name} has no pid`);
  const isRunning = (): boolean => child.exitCode === null && child.signalCode === null;
  const kill = (signal: NodeJS.Signals): void => {
    if (!isRunning()) return;
    child.kill(signal);
    if (signal === 'SIGKILL') killGroup(pid);
  };
  try {
    await guard(pid, stopSignal);
  } catch (error) {
    kill('SIGKILL');
    throw error;
  }
  child.stdin.end('go\n');

  return {
    name,
    pid,
    exited,
    isRunning,
    logs: () => [...lines],
    kill,
    async stop({ timeoutMs = 10_000 } = {}) {
      kill(stopSignal);
      // A stopped process would keep the signal for later.
      kill('SIGCONT');
      const timer = setTimeout(() => kill('SIGKILL'), timeoutMs);
      try {
        return await exited;
      } finally {
        clearTimeout(timer);
      }
    },
  };
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // The group went with its leader.
  }
}
