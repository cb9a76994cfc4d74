import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { root } from '../root.ts';
import { mutants, type Mutant } from './list.ts';

/**
 * `pnpm mutants [part of a name]`: breaks a copy of the last commit in one way at a time and runs the tests that must
 * notice. Exit code 1 when one of them does not.
 */
const [wanted = ''] = process.argv.slice(2);
const copy = mkdtempSync(join(tmpdir(), 'lapse-mutants-'));

interface Result {
  readonly mutant: string;
  readonly killed: boolean;
  /** The first test that failed. */
  readonly by: string;
}

try {
  execFileSync('git', ['clone', '--quiet', root, copy]);
  execFileSync('pnpm', ['install', '--frozen-lockfile', '--silent'], { cwd: copy, stdio: 'inherit' });
  const results = mutants.filter(({ name }) => name.includes(wanted)).map(tryMutant);
  console.log('\n| broken on purpose | noticed by |\n|---|---|');
  for (const { mutant, killed, by } of results) console.log(`| ${mutant} | ${killed ? by : '**nobody**'} |`);
  const survivors = results.filter(({ killed }) => !killed);
  console.log(`\n${results.length - survivors.length} of ${results.length} were noticed.`);
  process.exitCode = survivors.length === 0 ? 0 : 1;
} finally {
  rmSync(copy, { recursive: true, force: true });
}

function tryMutant({ name, file, changes, tests }: Mutant): Result {
  const path = join(copy, file);
  const original = readFileSync(path, 'utf8');
  let broken = original;
  for (const [found, instead] of changes) {
    const places = broken.split(found);
    if (places.length !== 2) throw new Error(`${file} has ${places.length - 1} places like: ${found}`);
    broken = places.join(instead);
  }
  writeFileSync(path, broken);
  try {
    const { stdout, stderr, status } = spawnSync('pnpm', ['exec', 'vitest', 'run', ...tests], {
      cwd: copy,
      encoding: 'utf8',
      env: { ...process.env, CI: 'true' },
      timeout: 240_000,
    });
    // A run that broke for another reason has noticed nothing: a test must have failed, by name.
    const [, by] = /FAIL {2}(.* > .*)/.exec(stdout + stderr) ?? [];
    const result = { mutant: name, killed: status !== 0 && by !== undefined, by: by ?? '' };
    console.log(`${result.killed ? 'noticed ' : 'SURVIVED'}  ${name}`);
    return result;
  } finally {
    writeFileSync(path, original);
  }
}
