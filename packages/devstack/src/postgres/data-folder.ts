import { execFile } from 'node:child_process';
import { chown, mkdir, readFile, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { DevstackError } from '../errors.ts';
import { isRunning, makeFolderOnce } from '../folder-once.ts';
import {
  type Environment,
  minimalEnvironment,
  type OnNotice,
  shortHash,
  temporaryFolders,
} from '../environment.ts';
import type { PostgresBinaries } from './binaries.ts';
import { mayReach, nobody, type RunAs } from './run-as.ts';

const run = promisify(execFile);

/** Where a cluster lives and, under root, who runs it. */
export interface DataFolder {
  readonly path: string;
  readonly runAs?: RunAs;
}

/**
 * Decides where the cluster wished for at `wished` lives. An ordinary user gets just that. Root may not run PostgreSQL:
 * there the owner of an existing cluster, else `nobody`, runs it; where that user may not pass the folders above, the
 * cluster moves to a stable folder under a temporary folder, and `onNotice` hears of it.
 *
 * @throws DevstackError `folder_unusable` when no folder can be reached
 */
export async function placeDataFolder(
  wished: string,
  env: Environment,
  onNotice: OnNotice,
): Promise<DataFolder> {
  const path = resolve(wished);
  if (process.getuid?.() !== 0) return { path };
  const runAs = await reachedBy(path);
  if (runAs !== undefined) return { path, runAs };
  for (const temporary of temporaryFolders(env)) {
    const instead = join(temporary, `lapse-${shortHash(path)}`, 'postgres');
    const user = await reachedBy(instead);
    if (user === undefined) continue;
    onNotice(
      `PostgreSQL may not run as root, and uid ${user.uid} may not enter ${dirname(path)}: its data is in ${instead}`,
    );
    return { path: instead, runAs: user };
  }
  throw new DevstackError(
    'folder_unusable',
    `uid ${nobody.uid} may neither enter ${path} nor a temporary folder`,
  );
}

/** Who runs the cluster at `path`, if that user can get there. */
async function reachedBy(path: string): Promise<RunAs | undefined> {
  await mkdir(dirname(path), { recursive: true });
  const owner = await stat(join(path, 'PG_VERSION')).catch(() => undefined);
  const user = owner === undefined || owner.uid === 0 ? nobody : { uid: owner.uid, gid: owner.gid };
  return (await mayReach(dirname(path), user)) ? user : undefined;
}

/**
 * Makes a cluster there unless there is one: superuser `lapse`, trusted from this machine, UTF-8, the builtin locale
 * C.UTF-8 (sorts by code point, the same on every system).
 *
 * @throws DevstackError `folder_unusable` when the folder holds other things; Error with initdb's own words
 */
export async function initCluster(
  folder: DataFolder,
  { initdb }: PostgresBinaries,
  env: Environment,
): Promise<void> {
  await makeFolderOnce(folder.path, 'PG_VERSION', async (partial) => {
    if (folder.runAs !== undefined) await chown(partial, folder.runAs.uid, folder.runAs.gid);
    const locale = ['--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--encoding=UTF8'];
    await run(initdb, ['-D', partial, '-U', 'lapse', '--auth=trust', ...locale, '--no-instructions'], {
      ...folder.runAs,
      cwd: '/',
      // With a zone given, initdb does not go looking for the machine's.
      env: { ...minimalEnvironment(env), LC_ALL: 'C', TZ: 'UTC' },
    });
  });
}

/**
 * Sees to it that no server runs in the cluster. Waits up to 5 s for one that is stopping, as after a `kill -9` of the
 * process that had started it. A lock whose pid is now another program's is removed: PostgreSQL itself would refuse.
 *
 * @returns whether a crashed server left its lock there
 * @throws DevstackError `folder_in_use`, naming the pid
 */
export async function freeCluster({ path }: DataFolder): Promise<boolean> {
  const lock = join(path, 'postmaster.pid');
  const beganAt = performance.now();
  for (;;) {
    const lines = (await readFile(lock, 'utf8').catch(() => '')).split('\n');
    const pid = Number(lines[0]);
    if (!Number.isInteger(pid) || pid <= 0) return false;
    if (!isRunning(pid)) return true;
    if (!(await isPostgres(pid))) {
      await rm(lock, { force: true });
      return true;
    }
    const isStopping = lines[7]?.trim() === 'stopping';
    if (performance.now() - beganAt > (isStopping ? 5_000 : 500)) {
      throw new DevstackError(
        'folder_in_use',
        `a PostgreSQL with pid ${pid} is running in ${path}: stop it (kill -INT ${pid}), or choose another folder`,
      );
    }
    await sleep(50);
  }
}

/** Where there is no /proc, a pid that runs is taken for PostgreSQL's, as PostgreSQL itself does. */
async function isPostgres(pid: number): Promise<boolean> {
  if (process.platform !== 'linux') return true;
  const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
  return name.trim() === 'postgres';
}
