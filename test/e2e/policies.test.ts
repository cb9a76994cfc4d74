import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { runScript, type Ended } from './fleet.ts';

const example = 'deploy/policies.example.json';

const lapse = (args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> =>
  runScript('apps/cli/src/main.ts', ['policies', ...args], env);

let folder: string;
let shadowed: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'lapse-policies-'));
  shadowed = join(folder, 'shadowed.json');
  await writeFile(shadowed, '{ "rules": [{ "name": "all" }, { "name": "web", "channel": "web" }] }');
});
afterAll(() => rm(folder, { recursive: true }));

/** The cells of a line, apart by two blanks or more. */
const cells = (line: string): string[] => line.trim().split(/ {2,}/);

describe('lapse policies check', () => {
  test('says ok and lists the rules in their order, with what each inherits', async () => {
    const { code, output } = await lapse(['check', example]);
    expect({ code, output }).toEqual({ code: 0, output });
    const [first, , ...lines] = output.split('\n');
    expect(first).toBe(`ok: 5 rules in ${example}; the first that matches wins.`);
    expect(lines.map(cells)).toEqual([
      [
        'rule',
        'channel',
        'payment method',
        'window',
        'grace',
        'reminders',
        'extension',
        'late money',
        'processing',
      ],
      ['cash on delivery', 'any', 'cash_on_delivery', 'never', '1m', 'none', '3×, by 1d', 'refund', '14d'],
      [
        'bank transfer',
        'any',
        'bank_transfer prepayment',
        '7d',
        '2d',
        '3d 1d',
        '1×, by 7d',
        'reinstate',
        '14d',
      ],
      ['vouchers', 'any', 'boleto konbini', '3d', '1d', '1d 6h', '3×, by 1d', 'refund', '5d'],
      ['box office', 'pos', 'any', '5m', '0s', 'none', 'never', 'manual', '14d'],
      ['web', 'web app', 'card wallet', '20m', '1m', '5m', '3×, by 1d', 'refund', '14d'],
      ['(defaults)', 'any other', 'any other', '30m', '1m', 'none', '3×, by 1d', 'refund', '14d'],
    ]);
  });

  test('warns of a rule that can never match, and is content all the same', async () => {
    const { code, output } = await lapse(['check', shadowed]);
    expect(code).toBe(0);
    expect(output).toContain('warning: "web" can never match: "all" before it takes all its orders');
  });

  test('ends with 1 and every problem', async () => {
    const path = join(folder, 'wrong.json');
    await writeFile(path, '{ "default": {}, "rules": [{ "name": "a", "window": "30" }] }');
    const { code, output } = await lapse(['check', path]);
    expect(code).toBe(1);
    expect(output.split('\n')).toEqual([
      `${path} has 2 problems; docs/policies.md describes the file:`,
      expect.stringMatching(/^ {2}- rules\[0\]\.window \("a"\): must be a number with ms, s, m, h or d/),
      '  - default: is not a known field; known are defaults, rules',
    ]);
  });

  test('ends with 1 where there is no file, or no JSON in it', async () => {
    expect(await lapse(['check', 'nowhere.json'])).toMatchObject({
      code: 1,
      output: expect.stringMatching(
        /^The policies in \/.*\/nowhere\.json cannot be read: there is no such file\.$/,
      ),
    });
    expect(await lapse(['check', 'README.md'])).toMatchObject({
      code: 1,
      output: 'README.md is not JSON: line 1, column 1: expected a value.',
    });
  });
});

const explain = async (args: readonly string[], env?: Readonly<Record<string, string>>): Promise<string> => {
  const { code, output } = await lapse(['explain', ...args], env);
  expect({ code, output }).toEqual({ code: 0, output });
  return output;
};

/** The instant that a line ends with, or has behind a word. */
const instantAfter = (output: string, words: string): number =>
  Date.parse(new RegExp(`${words} (\\S+Z)`).exec(output)?.[1] ?? '');

describe('lapse policies explain', () => {
  test('says which rule matches, why those before did not, and what follows', async () => {
    const output = await explain(['--channel', 'web', '--payment-method', 'konbini', '--file', example]);
    expect(output).toContain('cash on delivery  no: payment method konbini is not cash_on_delivery');
    expect(output).toContain(
      'bank transfer     no: payment method konbini is not bank_transfer or prepayment',
    );
    expect(output).toContain('vouchers          matches');
    expect(output).not.toContain('box office');
    const deadline = instantAfter(output, '3d: to be paid until');
    const dayMs = 86_400_000;
    expect(instantAfter(output, '1d: may be cancelled from')).toBe(deadline + dayMs);
    expect(instantAfter(output, '1d before,')).toBe(deadline - dayMs);
    expect(instantAfter(output, '; 6h before,')).toBe(deadline - dayMs / 4);
    expect(output).toContain('3 times at most, by 1d in all');
    expect(output).toContain('refund: returned by itself');
    expect(output).toContain('on its way for 5d');
  });

  test('says that an order waits for ever', async () => {
    const output = await explain(['--payment-method', 'cash_on_delivery', '--file', example]);
    expect(output).toContain('never: it has no deadline');
    expect(output).not.toContain('may be cancelled from');
  });

  test('takes the file of LAPSE_POLICIES, and a checkout that names nothing', async () => {
    const output = await explain([], { LAPSE_POLICIES: shadowed });
    expect(output).toContain(`Channel default, payment method card, ${shadowed}:`);
    expect(output).toContain('all  matches');
  });

  test('without a file explains the default policies', async () => {
    const output = await explain(['--channel', 'web']);
    expect(output).toContain('without a policies file');
    expect(output).toContain('(defaults)  no rule matches');
    expect(output).toContain('30m: to be paid until');
    expect(output).toContain('as often as wished');
  });
});
