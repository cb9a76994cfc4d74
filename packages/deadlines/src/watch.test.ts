import { describe, expect, test } from 'vitest';
import { Watch, type Look } from './watch.ts';

const limits = { silentLooks: 3, fullLooks: 10, maxReplacements: 2 } as const;

/** A worker that is looked at; what changes is told look by look. */
function watched(): { watch: Watch; look: (changes?: Partial<Look>) => string } {
  const watch = new Watch(limits);
  let seen: Look = { fetchCount: 1, jobCount: 0, isFull: false, canary: 'a' };
  watch.judge(seen);
  return {
    watch,
    look(changes = {}) {
      seen = { ...seen, ...changes };
      const judged = watch.judge(seen);
      return 'reason' in judged ? `${judged.verdict}: ${judged.reason}` : judged.verdict;
    },
  };
}

describe('a worker', () => {
  test('that fetches while canaries come and go is well', () => {
    const { look } = watched();
    for (let fetchCount = 2; fetchCount < 20; fetchCount += 1) {
      expect(look({ fetchCount, canary: fetchCount % 2 === 0 ? null : String(fetchCount) })).toBe('well');
    }
  });

  test('that fetches in every third look only, as an idle one may, is never replaced', () => {
    const { look } = watched();
    for (let fetchCount = 2; fetchCount < 20; fetchCount += 1) {
      expect(look({ canary: `${fetchCount}a` })).toBe('silent');
      expect(look({ canary: `${fetchCount}b` })).toBe('silent');
      expect(look({ fetchCount, canary: `${fetchCount}c` })).toBe('well');
    }
  });

  test('that does not fetch is replaced, though others consume the canaries', () => {
    const { look } = watched();
    expect(look({ canary: 'b' })).toBe('silent');
    expect(look({ canary: null })).toBe('silent');
    expect(look({ canary: 'c' })).toBe('replace: no_fetch');
  });

  test('that fetches nothing while a canary stays is replaced', () => {
    const { look } = watched();
    expect(look({ fetchCount: 2 })).toBe('silent');
    expect(look({ fetchCount: 3 })).toBe('silent');
    expect(look({ fetchCount: 4 })).toBe('replace: no_canary');
  });

  test('that fetches jobs is well while the canary waits behind a backlog', () => {
    const { watch, look } = watched();
    const missed: boolean[] = [];
    for (let jobCount = 1; jobCount <= 5; jobCount += 1) {
      expect(look({ jobCount, fetchCount: jobCount + 1 })).toBe('well');
      missed.push(watch.hasMissedCanary);
    }
    // Told once.
    expect(missed).toEqual([false, false, true, false, false]);
  });

  test('that has as many jobs in hand as it may need not fetch', () => {
    const { look } = watched();
    for (let count = 0; count < 10; count += 1) expect(look({ isFull: true })).toBe('well');
  });

  test('whose jobs do not end is replaced in the end', () => {
    const { look } = watched();
    for (let count = 0; count < 10; count += 1) look({ isFull: true });
    expect([look(), look(), look()]).toEqual(['silent', 'silent', 'replace: no_fetch']);
  });

  test('that has been full since its last job begins the count with it', () => {
    const { look } = watched();
    for (let jobCount = 1; jobCount < 4; jobCount += 1) {
      expect(look({ isFull: true, jobCount, fetchCount: jobCount + 1 })).toBe('well');
      for (let count = 0; count < 10; count += 1) expect(look()).toBe('well');
    }
  });

  test('is excused as long as Redis is away, and gets its whole time afterwards', () => {
    const { watch, look } = watched();
    look();
    look();
    watch.excuse();
    expect([look(), look(), look(), look()]).toEqual(['well', 'silent', 'silent', 'replace: no_fetch']);
  });
});

/** Lets a worker wedge, as a new one may after its first fetch, until it is replaced; returns the last verdict. */
function wedge({ watch, look }: ReturnType<typeof watched>, fetchCount: number): string {
  look({ fetchCount: 0, canary: 'a' });
  look({ fetchCount, canary: null });
  const verdicts = [look(), look(), look()];
  watch.replaced();
  return verdicts.at(-1) ?? '';
}

describe('after replacements', () => {
  test('that changed nothing the process gives up', () => {
    const worker = watched();
    expect(wedge(worker, 1)).toBe('replace: no_fetch');
    expect(wedge(worker, 1)).toBe('replace: no_fetch');
    expect(worker.watch.replacements).toBe(2);
    expect(wedge(worker, 1)).toBe('give_up: no_fetch');
  });

  test('a worker that lives on starts the count anew', () => {
    const worker = watched();
    wedge(worker, 1);
    for (let fetchCount = 1; fetchCount <= 5; fetchCount += 1) {
      worker.look({ fetchCount, canary: String(fetchCount) });
    }
    expect(worker.watch.replacements).toBe(0);
    expect(wedge(worker, 6)).toBe('replace: no_fetch');
  });

  test('an outage of Redis between them changes nothing', () => {
    const worker = watched();
    wedge(worker, 1);
    worker.watch.excuse();
    wedge(worker, 1);
    worker.watch.excuse();
    expect(wedge(worker, 1)).toBe('give_up: no_fetch');
  });
});
