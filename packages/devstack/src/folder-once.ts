import { randomBytes } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { codeOf, DevstackError } from './errors.ts';

/**
 * Makes a folder that is there whole or not at all: `fill` works in a sibling, which is then renamed. Cut off at any
 * moment it leaves only the sibling, which a later call clears away; of several processes at once the first to finish
 * wins, and the others use its folder.
 *
 * @param folder where it shall be; an empty folder there is replaced
 * @param proof a file inside whose presence says that `folder` is whole
 * @returns whether this call made it
 * @throws DevstackError `folder_unusable` when `folder` holds other things; whatever `fill` throws
 */
export async function makeFolderOnce(
  folder: string,
  proof: string,
  fill: (partial: string) => Promise<void>,
): Promise<boolean> {
  if (await exists(join(folder, proof))) return false;
  await mkdir(dirname(folder), { recursive: true });
  await clearPartials(folder);
  const partial = `${folder}.partial-${process.pid}-${randomBytes(4).toString('hex')}`;
  await mkdir(partial);
  try {
    await fill(partial);
    await rename(partial, folder);
    return true;
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    const code = codeOf(error);
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
    if (await exists(join(folder, proof))) return false;
    throw new DevstackError(
      'folder_unusable',
      `${folder} is not empty and has no ${proof}: empty it, or choose another folder`,
    );
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return false;
    if (code !== 'EACCES') throw error;
    throw new DevstackError(
      'folder_unusable',
      `${dirname(path)} belongs to another user: hand it over (sudo chown -R "$USER" …), or choose another folder`,
      { cause: error },
    );
  }
}

async function clearPartials(folder: string): Promise<void> {
  const prefix = `${basename(folder)}.partial-`;
  for (const name of await readdir(dirname(folder))) {
    if (!name.startsWith(prefix)) continue;
    const pid = Number(name.slice(prefix.length).split('-')[0]);
    if (Number.isInteger(pid) && !isRunning(pid)) {
      await rm(join(dirname(folder), name), { recursive: true, force: true });
    }
  }
}

/** Whether a process has this pid, ours or anybody's. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === 'EPERM';
  }
}
