/**
 * `pnpm test`: the checks, then every test, then one closing line that counts both.
 *
 * With arguments it runs the tests they select and nothing else; they are vitest's own:
 * `pnpm test packages/orders`, `pnpm test expire -t 'paid at the last moment'`.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { compileCache } from '@lapse/devstack';
import { parseCLI, startVitest } from 'vitest/node';

import { printPlainText } from './reporters/plain-text.ts';
import TallyReporter, { closingLine, type Tally } from './reporters/tally.ts';
import { root } from './root.ts';

const summaries = '.turbo/runs';

/** Runs `pnpm check`, its output streamed, and counts its tasks. A task that never ran has failed. */
async function runChecks(): Promise<Tally> {
  await mkdir(summaries, { recursive: true });
  const earlier = new Set(await readdir(summaries));
  const check = spawn('pnpm', ['run', 'check', '--summarize'], { stdio: plain ? 'pipe' : 'inherit' });
  for (const lines of [check.stdout, check.stderr])
    if (lines) createInterface({ input: lines }).on('line', (line) => console.log(line));
  await once(check, 'close').catch(console.error);

  const written = (await readdir(summaries)).find((name) => !earlier.has(name));
  if (!written) {
    console.log('The checks did not start.');
    return { passed: 0, failed: 1 };
  }
  const { tasks } = JSON.parse(await readFile(join(summaries, written), 'utf8')) as {
    tasks: { taskId: string; execution?: { exitCode?: number } }[];
  };
  const failed = tasks.filter((task) => task.execution?.exitCode !== 0);
  for (const { taskId } of failed) console.log(`check failed: ${taskId}`);
  return { passed: tasks.length - failed.length, failed: failed.length };
}

/** Runs vitest in this process. Anything that breaks it, its setup and its teardown included, counts as failed. */
async function runTests(args: string[]): Promise<Tally> {
  const reporter = new TallyReporter({ closingLine: false });
  process.exitCode = 0;
  try {
    const { filter, options } = parseCLI(['vitest', 'run', ...args]);
    const vitest = await startVitest(filter, { ...options, watch: false, reporters: [reporter] });
    await vitest.close();
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  }
  const { passed, failed } = reporter.tally;
  return { passed, failed: failed === 0 && process.exitCode !== 0 ? 1 : failed };
}

// For the processes that vitest forks.
Object.assign(process.env, compileCache(root));

const plain = printPlainText();
const args = process.argv.slice(2).filter((arg) => arg !== '--');
const everything = args.length === 0;
const checks = everything ? await runChecks() : { passed: 0, failed: 0 };
const tests = await runTests(args);
const total = { passed: checks.passed + tests.passed, failed: checks.failed + tests.failed };

console.log(
  everything
    ? `Checks: ${closingLine(checks)}. Tests: ${closingLine(tests)}.`
    : `Ran only the tests selected by: ${args.join(' ')}. Not run: the checks (pnpm check), all other tests.`,
);
console.log(closingLine(total));
process.exit(total.failed > 0 ? 1 : 0);
