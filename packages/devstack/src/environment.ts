import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { access, mkdir, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

/**
 * The variables of the machine that this package looks at: `PATH`, `HOME`, `XDG_CACHE_HOME`, `TMPDIR`, and whatever a
 * `docker` command needs. Never a setting of Lapse: callers hand those over by name.
 */
export type Environment = Readonly<Record<string, string | undefined>>;

/** Hears, in whole sentences for a person, what takes long or turned out otherwise than wished. */
export type OnNotice = (notice: string) => void;

/** The machine's variables: `env` where given, else those of this process. The only reader of `process.env` here. */
export function machineEnvironment(env: Environment = process.env): Environment {
  return env;
}

/** The least a program needs to start: `PATH`, and `HOME` and `TMPDIR` where they are set. */
export function minimalEnvironment(env: Environment): Record<string, string> {
  const kept: Record<string, string> = { PATH: env['PATH'] ?? '/usr/bin:/bin' };
  for (const name of ['HOME', 'TMPDIR']) {
    const value = env[name];
    if (value !== undefined) kept[name] = value;
  }
  return kept;
}

/** The first file called `command` on `env`'s `PATH` that may be executed, or undefined. An empty `PATH` finds nothing. */
export async function findCommand(command: string, env: Environment): Promise<string | undefined> {
  for (const folder of (env['PATH'] ?? '').split(delimiter)) {
    if (folder === '') continue;
    const path = join(folder, command);
    try {
      await access(path, constants.X_OK);
      if ((await stat(path)).isFile()) return path;
    } catch {
      // Not here: the next folder may have it.
    }
  }
  return undefined;
}

/** The folders for temporary things, best first; the later ones matter where the first is private to root. */
export function temporaryFolders(env: Environment): readonly string[] {
  return [...new Set([env['TMPDIR'] ?? tmpdir(), '/tmp', '/var/tmp'])];
}

/**
 * A writable folder that survives restarts: `$XDG_CACHE_HOME/lapse`, `~/.cache/lapse`, else one of this user's own under
 * a temporary folder. Programs are started from it, so one that belongs to somebody else is passed over.
 *
 * @throws Error when none of them can be written
 */
export async function cacheFolder(env: Environment): Promise<string> {
  const uid = process.getuid?.();
  const candidates: string[] = [];
  if (env['XDG_CACHE_HOME']?.startsWith('/')) candidates.push(join(env['XDG_CACHE_HOME'], 'lapse'));
  if (env['HOME']?.startsWith('/')) candidates.push(join(env['HOME'], '.cache', 'lapse'));
  for (const folder of temporaryFolders(env)) candidates.push(join(folder, `lapse-cache-${uid ?? 'user'}`));
  for (const folder of candidates) {
    try {
      await mkdir(folder, { recursive: true, mode: 0o755 });
      await access(folder, constants.W_OK | constants.X_OK);
      if (uid === undefined || (await stat(folder)).uid === uid) return folder;
    } catch {
      // A home that does not exist or may not be written is common in containers: the next one.
    }
  }
  throw new Error(`no cache folder can be written: ${candidates.join(', ')}`);
}

/** Twelve hexadecimal digits that stand for `text` in a file's name. */
export function shortHash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}
