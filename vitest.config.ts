import { defineConfig } from 'vitest/config';

import LongestFirst from './test/longest-first.ts';

export default defineConfig({
  test: {
    include: ['packages/**/src/**/*.test.ts', 'apps/**/src/**/*.test.ts', 'test/**/*.test.ts'],
    globalSetup: ['test/global-setup.ts'],
    reporters: ['./test/reporters/tally.ts'],
    sequence: { sequencer: LongestFirst },
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    restoreMocks: true,
    retry: 0,
    passWithNoTests: false,
    allowOnly: false,
  },
});
