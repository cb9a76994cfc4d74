/**
 * Runs `work` for 0 … `count` − 1, at most `concurrency` at a time.
 *
 * @returns the results, in the order of their numbers
 * @throws what the first failing `work` threw
 */
export async function inParallel<Result>(
  count: number,
  concurrency: number,
  work: (n: number) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) {
      const n = next;
      next += 1;
      results[n] = await work(n);
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, count) }, lane));
  return results;
}
