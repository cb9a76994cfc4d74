import { DefaultReporter } from 'vitest/node';
import type { SerializedError, TestModule, TestRunEndReason } from 'vitest/node';

import { printPlainText } from './plain-text.ts';

/** What ran and how it ended. Whatever did not pass has failed: there is no third state. */
export interface Tally {
  passed: number;
  failed: number;
}

/** The one closing line of every run, for people and for CI. */
export function closingLine({ passed, failed }: Tally): string {
  return `${passed} passed, ${failed} failed`;
}

/**
 * One line per test file, failures in full, and at the end the closing line.
 *
 * A skipped test counts as failed, because tests never drop out silently; so do a file that cannot be collected, a hook
 * that throws, an error outside any test, and a run without tests. Tests left out by `-t` are the caller's choice: they
 * are named, not counted.
 *
 * @param options.closingLine `false` leaves the closing line to a caller that counts more than tests. Default `true`.
 */
export default class TallyReporter extends DefaultReporter {
  readonly tally: Tally = { passed: 0, failed: 0 };
  readonly #closingLine: boolean;

  constructor(options: { closingLine?: boolean } = {}) {
    printPlainText();
    super({ summary: false });
    this.#closingLine = options.closingLine ?? true;
  }

  override onTestRunEnd(
    modules: readonly TestModule[],
    errors: readonly SerializedError[],
    reason: TestRunEndReason,
  ): void {
    super.onTestRunEnd(modules, errors, reason);

    const { tally } = this;
    tally.passed = 0;
    tally.failed = errors.length;
    const skipped: string[] = [];
    let deselectedCount = 0;

    for (const module of modules) {
      tally.failed += module.errors().length > 0 ? 1 : 0;
      for (const suite of module.children.allSuites()) tally.failed += suite.errors().length > 0 ? 1 : 0;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === 'passed') tally.passed += 1;
        else if (state === 'skipped' && this.ctx.config.testNamePattern) deselectedCount += 1;
        else {
          tally.failed += 1;
          if (state === 'skipped') skipped.push(`${module.relativeModuleId} > ${test.fullName}`);
        }
      }
    }
    if (reason === 'interrupted' || tally.passed + tally.failed === 0) tally.failed += 1;

    for (const name of skipped) this.log(`did not run, so it counts as failed: ${name}`);
    if (deselectedCount > 0) this.log(`${deselectedCount} tests left out by -t`);
    if (tally.failed > 0) process.exitCode = 1;
    if (this.#closingLine) this.log(closingLine(tally));
  }

  /** Replaced by the closing line. */
  override reportTestSummary(): void {}
}
