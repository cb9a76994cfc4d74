/**
 * The watchdog: a process of its own that outlives its parent by seconds, so that nothing else does.
 *
 * The parent writes lines to its standard input: `guard <pid> <signal>` and `release <pid>`. When the input ends, for
 * whatever reason (`kill -9` included: the kernel closes the pipe), each process still guarded gets its signal, and
 * what is left of it and its descendants after 2.5 s is killed. Then the watchdog ends.
 *
 * No imports but Node's own: it starts fast and cannot break with the code it guards.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const graceMs = 2_500;

interface Guarded {
  readonly signal: string;
  /** Tells a process from a later one with the same pid; undefined where /proc is missing. */
  readonly startTime: string | undefined;
}

const guarded = new Map<number, Guarded>();

/** Fields of /proc/<pid>/stat behind the command's closing parenthesis: 0 state, 1 parent's pid, 19 start time. */
function statOf(pid: number): readonly string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

function send(pid: number, signal: string | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}

function isAlive(pid: number, startTime: string | undefined): boolean {
  if (startTime === undefined) return send(pid, 0);
  const stat = statOf(pid);
  // In a container without an init nobody reaps an orphan: a zombie is gone for our purpose.
  return stat !== undefined && stat[19] === startTime && stat[0] !== 'Z';
}

/** PostgreSQL's backends lead sessions of their own, so killing the group of the postmaster would miss them. */
function descendantsOf(roots: Iterable<number>): Set<number> {
  const parentOf = new Map<number, number>();
  if (process.platform === 'linux') {
    for (const name of readdirSync('/proc')) {
      const pid = Number(name);
      if (Number.isInteger(pid)) parentOf.set(pid, Number(statOf(pid)?.[1]));
    }
  } else {
    for (const line of execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).split('\n')) {
      const [pid, parent] = line.trim().split(/\s+/);
      parentOf.set(Number(pid), Number(parent));
    }
  }
  const found = new Set(roots);
  for (let size = -1; size !== found.size;) {
    size = found.size;
    for (const [pid, parent] of parentOf) if (found.has(parent)) found.add(pid);
  }
  return found;
}

async function stopEverything(): Promise<void> {
  const left = new Map([...guarded].filter(([pid, { startTime }]) => isAlive(pid, startTime)));
  for (const [pid, { signal }] of left) {
    send(pid, signal);
    send(pid, 'SIGCONT');
  }
  const giveUpAt = performance.now() + graceMs;
  while (left.size > 0) {
    for (const [pid, { startTime }] of left) {
      if (isAlive(pid, startTime)) continue;
      send(-pid, 'SIGKILL');
      left.delete(pid);
    }
    if (left.size === 0 || performance.now() >= giveUpAt) break;
    await sleep(25);
  }
  for (const pid of left.size === 0 ? [] : descendantsOf(left.keys())) {
    if (left.has(pid)) send(-pid, 'SIGKILL');
    send(pid, 'SIGKILL');
  }
  process.exit();
}

// Its duty ends with its input, not with a signal somebody sends to everything.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => {});

const lines = createInterface({ input: process.stdin });
process.stdin.on('error', () => lines.close());
lines.on('line', (line) => {
  const [verb, pidText, signal = 'SIGTERM'] = line.split(' ');
  const pid = Number(pidText);
  if (!Number.isInteger(pid) || pid <= 1) return;
  if (verb === 'guard') guarded.set(pid, { signal, startTime: statOf(pid)?.[19] });
  if (verb === 'release') guarded.delete(pid);
});
lines.on('close', () => void stopEverything());
