import { execFile } from 'node:child_process';
import { lstat, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import {
  cacheFolder,
  type Environment,
  findCommand,
  minimalEnvironment,
  type OnNotice,
  temporaryFolders,
} from './environment.ts';
import { makeFolderOnce } from './folder-once.ts';

const run = promisify(execFile);

/** A program of Debian's and Ubuntu's. */
export interface AptProgram {
  /** What to call it in messages. */
  readonly name: string;
  readonly package: string;
  /** Where the package has it, from its root. Run with `--version`, it ends with 0. */
  readonly path: string;
  /** What it needs on Debian 12 and Ubuntu 22.04 beyond a base system, should apt not tell by itself. */
  readonly libraries: readonly string[];
}

/** A program that was unpacked without being installed. */
export interface UnpackedProgram {
  readonly path: string;
  /** For LD_LIBRARY_PATH. */
  readonly libraryPath: string;
}

/** The copy that `unpackProgram` made earlier on this machine, if it still runs. */
export async function cachedProgram(
  program: AptProgram,
  env: Environment,
): Promise<UnpackedProgram | undefined> {
  const found = await inFolder(program, await folderOf(program, env));
  return (await runs(found)) ? found : undefined;
}

/**
 * Fetches a program and the libraries it lacks here with apt, into a private state of apt's, and unpacks them into the
 * cache folder: nothing is installed, root is not needed, the machine's own apt is left alone. About 3 s, once.
 *
 * @throws Error when this is no Debian or Ubuntu, apt cannot fetch the packages, or what it fetched does not run here
 */
export async function unpackProgram(
  program: AptProgram,
  env: Environment,
  onNotice: OnNotice,
): Promise<UnpackedProgram> {
  const aptGet = await findCommand('apt-get', env);
  const dpkg = await findCommand('dpkg', env);
  if (aptGet === undefined || dpkg === undefined) throw new Error('apt-get and dpkg are not on PATH');
  onNotice(`there is no ${program.name} on this machine: apt fetches a private copy, once`);
  const folder = await folderOf(program, env);
  const existing = await inFolder(program, folder);
  // A copy that is there and does not run was damaged. One that is not there another process may be making just now.
  if ((await isThere(existing.path)) && !(await runs(existing)))
    await rm(folder, { recursive: true, force: true });
  await makeFolderOnce(folder, program.path, async (partial) => {
    const work = await temporaryFolder(env);
    try {
      for (const file of await download(aptGet, program, work, env)) await run(dpkg, ['-x', file, partial]);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
    const unpacked = await inFolder(program, partial);
    await run(unpacked.path, ['--version'], { env: { LD_LIBRARY_PATH: unpacked.libraryPath } });
  });
  onNotice(`${program.name} was unpacked to ${folder}`);
  return inFolder(program, folder);
}

/** Libraries fit one release of one distribution: an upgraded machine fetches anew. */
async function folderOf(program: AptProgram, env: Environment): Promise<string> {
  const release = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const field = (name: string): string =>
    new RegExp(`^${name}="?([\\w.-]+)`, 'm').exec(release)?.[1] ?? 'unknown';
  const name = program.name.toLowerCase();
  return join(await cacheFolder(env), `${name}-${field('ID')}-${field('VERSION_ID')}-${process.arch}`);
}

async function inFolder({ path }: AptProgram, folder: string): Promise<UnpackedProgram> {
  const libraries: string[] = [];
  for (const parent of ['usr/lib', 'lib']) {
    const names = await readdir(join(folder, parent)).catch(() => []);
    libraries.push(
      ...names.filter((name) => name.includes('-linux-')).map((name) => join(folder, parent, name)),
    );
  }
  return { path: join(folder, path), libraryPath: libraries.join(':') };
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch {
    return false;
  }
}

async function runs({ path, libraryPath }: UnpackedProgram): Promise<boolean> {
  try {
    await run(path, ['--version'], { env: { LD_LIBRARY_PATH: libraryPath } });
    return true;
  } catch {
    return false;
  }
}

async function temporaryFolder(env: Environment): Promise<string> {
  for (const folder of temporaryFolders(env)) {
    try {
      return await mkdtemp(join(folder, 'lapse-apt-'));
    } catch {
      // Not writable: the next one.
    }
  }
  throw new Error('no temporary folder can be written');
}

/** The .deb files of a program and of what it needs and this machine lacks. */
async function download(
  aptGet: string,
  program: AptProgram,
  work: string,
  env: Environment,
): Promise<string[]> {
  const archives = join(work, 'cache', 'archives');
  for (const folder of [join(work, 'state', 'lists', 'partial'), join(archives, 'partial')]) {
    await mkdir(folder, { recursive: true });
  }
  // The machine's hooks would run after our update: they notify its package tools and empty its caches.
  const hooks = ['Pre-Invoke', 'Post-Invoke', 'Post-Invoke-Success'].map(
    (name) => `#clear APT::Update::${name};`,
  );
  await writeFile(join(work, 'apt.conf'), `${hooks.join('\n')}\n`);
  const options = {
    'Dir::State': join(work, 'state'),
    'Dir::State::status': '/var/lib/dpkg/status',
    'Dir::Cache': join(work, 'cache'),
    'Debug::NoLocking': 'true',
    // Under root apt would fetch as _apt, who may not write here.
    'APT::Sandbox::User': 'root',
    'APT::Keep-Downloaded-Packages': 'true',
    'Acquire::Languages': 'none',
    'Acquire::Retries': '2',
    'Acquire::http::Timeout': '15',
    'Acquire::https::Timeout': '15',
  };
  const apt = (...words: string[]): Promise<unknown> =>
    run(
      aptGet,
      [
        '-q',
        '-c',
        join(work, 'apt.conf'),
        ...Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`]),
        ...words,
      ],
      {
        cwd: archives,
        // Proxies are set in the environment as often as in apt.conf.
        env: { ...minimalEnvironment(env), ...proxies(env), LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
        timeout: 180_000,
        maxBuffer: 16 * 1024 * 1024,
      },
    );
  // One broken third-party source fails the whole update, yet the others' lists are there: the next step decides.
  await apt('update').catch(() => {});
  try {
    await apt('install', '--yes', '--download-only', '--no-install-recommends', program.package);
  } catch {
    // Where the machine's packages contradict each other apt resolves nothing, but it still fetches by name.
    await apt('download', program.package, ...program.libraries);
  }
  const files = (await readdir(archives)).filter((name) => name.endsWith('.deb'));
  return files.map((name) => join(archives, name));
}

function proxies(env: Environment): Record<string, string> {
  const kept: Record<string, string> = {};
  for (const [name, value] of Object.entries(env)) {
    if (value !== undefined && /^(https?|no|all)_proxy$/i.test(name)) kept[name] = value;
  }
  return kept;
}
