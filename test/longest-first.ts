import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Folders whose tests take longest, the longest first. */
const longFolders = ['/test/chaos/', '/test/e2e/', '/test/crash/'] as const;

/**
 * Begins with what takes longest, so that no long test runs alone at the end. Vitest itself goes by the durations of the
 * last run, and where there was none, as in a fresh clone, by the sizes of the files: a soak of a minute is a small one.
 */
export default class LongestFirst extends BaseSequencer {
  override sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return Promise.resolve(files.toSorted((a, b) => placeOf(a) - placeOf(b)));
  }
}

function placeOf({ moduleId }: TestSpecification): number {
  const place = longFolders.findIndex((folder) => moduleId.includes(folder));
  return place === -1 ? longFolders.length : place;
}
