import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OperatorError } from '@lapse/runtime';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadPolicies } from './load-policies.ts';
import { defaultPolicies, policyFor } from './policies.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lapse-policies-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function write(content: string | Uint8Array): Promise<string> {
  const path = join(folder, 'policies.json');
  await writeFile(path, content);
  return path;
}

/** What whoever starts a process with this file is told. */
async function errorOf(path: string): Promise<string> {
  try {
    await loadPolicies(path);
    return 'none';
  } catch (error) {
    if (error instanceof OperatorError) return error.message;
    throw error;
  }
}

test('without a file the default policies hold', async () => {
  expect(await loadPolicies(undefined)).toEqual({ policies: defaultPolicies, warnings: [] });
});

test('a file is read, with a byte order mark as well, and with what it should be warned of', async () => {
  const path = await write(
    '\uFEFF{ "rules": [{ "name": "all", "window": "1h" }, { "name": "web", "channel": "web" }] }',
  );
  const { policies, warnings } = await loadPolicies(path);
  expect(policyFor(policies, { channel: 'web', paymentMethod: 'card' }).windowMs).toBe(3_600_000);
  expect(warnings).toEqual([expect.stringMatching(/^"web" can never match: "all" before it/)]);
});

test('a file that is not there is named in full', async () => {
  const path = join(folder, 'none.json');
  expect(await errorOf(path)).toBe(`The policies in ${path} cannot be read: there is no such file.`);
});

test('a folder is no file, and neither is what lies in a file', async () => {
  expect(await errorOf(folder)).toBe(`The policies in ${folder} cannot be read: it is a folder.`);
  const within = join(await write('{}'), 'x');
  expect(await errorOf(within)).toBe(`The policies in ${within} cannot be read: there is no such file.`);
});

test('a file in another encoding is refused', async () => {
  const path = await write(Buffer.from('{ "rules": [{ "name": "Überweisung" }] }', 'latin1'));
  expect(await errorOf(path)).toBe(`The policies in ${path} cannot be read: it is not UTF-8.`);
});

test('what is not JSON is shown by line and column', async () => {
  const path = await write('{\n  "rules": [],\n}\n');
  expect(await errorOf(path)).toBe(`${path} is not JSON: line 3, column 1: a comma too many before }.`);
});

test('every problem has a line', async () => {
  const path = await write('{ "rules": [{ "name": "a", "window": "0s", "lateMoney": "keep" }] }');
  expect(await errorOf(path)).toBe(
    [
      `${path} has 2 problems; docs/policies.md describes the file:`,
      '  - rules[0].window ("a"): must be from 1s to 90d, not "0s"',
      '  - rules[0].lateMoney ("a"): must be "refund", "reinstate" or "manual"',
    ].join('\n'),
  );
});
