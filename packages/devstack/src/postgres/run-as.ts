import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** A user and group to run a program as. */
export interface RunAs {
  readonly uid: number;
  readonly gid: number;
}

/** The user without rights, `nobody` on Linux: PostgreSQL refuses to run as root. */
export const nobody: RunAs = { uid: 65_534, gid: 65_534 };

/**
 * Whether `user` may enter the folder or execute the file `path`, all folders above included. The kernel is asked, by a
 * process of that user: reading modes would miss groups, access lists and mounts.
 */
export async function mayReach(path: string, user: RunAs): Promise<boolean> {
  try {
    await run('/bin/sh', ['-c', 'test -x "$1"', 'sh', path], { ...user, cwd: '/' });
    return true;
  } catch {
    return false;
  }
}
