import { expect, test } from 'vitest';

import { soak } from './soak.ts';

test('a minute of steady load breaks no promise, and neither memory nor event streams grow without end', async () => {
  expect(await soak({ minutes: 1, seed: 20_260_101 })).toBe(true);
}, 180_000);
