/**
 * Asks each partition by itself: in a cluster they live on different nodes, and one that is away must not take the
 * others along.
 *
 * @returns the answers; a partition that gave none is left out
 * @throws what the first one threw, where none of them answered
 */
export async function askEach<Answer>(
  partitions: readonly number[],
  ask: (partition: number) => Promise<Answer>,
): Promise<ReadonlyMap<number, Answer>> {
  const asked = await Promise.allSettled(
    partitions.map(async (partition) => [partition, await ask(partition)] as const),
  );
  const answers = asked.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  const [failed] = asked.flatMap((one) => (one.status === 'rejected' ? [one] : []));
  if (answers.length === 0 && failed !== undefined) throw failed.reason;
  return new Map(answers);
}
