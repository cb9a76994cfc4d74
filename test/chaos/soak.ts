import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

import { surroundings } from '../surroundings.ts';
import { judge } from './judge.ts';
import { Load } from './load.ts';
import { settle } from './measure.ts';
import { planOrder, type PlannedOrder } from './plan.ts';
import { startServers } from './servers.ts';
import { startSystem, type System } from './system.ts';

const ordersPerSecond = 40;

/** Of the orders, how many are to be paid at a payment provider. */
const attemptShare = 0.2;

const sampleEveryMs = 5000;

/** Most entries of an event stream: 500 are kept, trimmed in whole nodes of 100. */
const mostStreamEntries = 1000;

/** What is measured each few seconds. Memory in MiB. */
interface Sample {
  readonly atMs: number;
  readonly rss: Readonly<Record<string, number>>;
  readonly redisUsed: number;
  readonly longestStream: number;
}

/**
 * Steady load without faults, but those of the payment providers; fails where a process keeps growing, an event stream passes its bound, or a promise is
 * broken.
 *
 * @param options.report writes the samples, where wished
 * @returns whether all was well
 */
export async function soak(options: {
  minutes: number;
  seed: number;
  report?: ((report: object) => Promise<void>) | undefined;
}): Promise<boolean> {
  const { minutes, seed, report } = options;
  const servers = await startServers(console.log);
  try {
    const system = await startSystem(servers, `${seed}/soak`);
    try {
      const load = new Load(system);
      await load.setStock();
      const loading = load.run(steadily(`${seed}/soak`, minutes * 60_000));
      const samples = await sampleFor(system, load, minutes * 60_000);
      await loading;
      const judgement = await judge(system, load, await settle(system));
      const breaches = [...judgeMemory(samples, minutes), ...judgement.breaches];
      for (const breach of breaches) console.log(`broken: ${breach}`);
      console.log(breaches.length === 0 ? `ok: ${load.ledger.placedCount} orders` : 'The soak failed.');
      await report?.({
        minutes,
        seed,
        ...(await surroundings({ databaseUrl: servers.postgres.url, redisUrl: servers.redis.url })),
        breaches,
        samples,
      });
      return breaches.length === 0;
    } finally {
      await system.stop();
    }
  } finally {
    await servers.stop();
  }
}

function* steadily(seed: string, forMs: number): Generator<PlannedOrder> {
  for (let n = 0; ; n += 1) {
    const atMs = (n / ordersPerSecond) * 1000;
    if (atMs > forMs) return;
    yield planOrder(seed, n, atMs, { attemptShare });
  }
}

async function sampleFor(system: System, load: Load, forMs: number): Promise<Sample[]> {
  const startedAt = performance.now();
  const samples: Sample[] = [];
  for (let n = 1; n * sampleEveryMs <= forMs; n += 1) {
    await delay(Math.max(0, startedAt + n * sampleEveryMs - performance.now()));
    const sample = await takeSample(system, performance.now() - startedAt);
    samples.push(sample);
    const rss = Object.entries(sample.rss).map(([name, mib]) => `${name} ${Math.round(mib)}`);
    console.log(
      `${Math.round(sample.atMs / 1000)} s: ${load.ledger.placedCount} orders, MiB: ${rss.join(', ')}, ` +
        `Redis ${sample.redisUsed.toFixed(1)}, longest stream ${sample.longestStream}`,
    );
  }
  return samples;
}

async function takeSample({ members, redis }: System, atMs: number): Promise<Sample> {
  const rss: Record<string, number> = {};
  for (const { name, pid } of members) {
    const status = await readFile(`/proc/${pid ?? 0}/status`, 'utf8');
    rss[name] = Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
  }
  const used = /used_memory:(\d+)/.exec(await redis.info('memory'))?.[1];
  // A handful of keys: jobs that are pending are not many here.
  const streams = (await redis.keys('bull:*:events')).map((key) => redis.xlen(key));
  return {
    atMs,
    rss,
    redisUsed: Number(used) / 2 ** 20,
    longestStream: Math.max(0, ...(await Promise.all(streams))),
  };
}

/** By how much the memory of a process may grow besides 20 MiB: in its first minutes it is still on the way to its size. */
const growth = { shortMinutes: 5, short: 0.5, long: 0.15 };

/**
 * What grows without end: the last third's peak above the second third's by more than `growth`. Peaks, because resident
 * memory is a saw: the collector lets it grow to the same height again and again, minutes apart.
 */
function judgeMemory(samples: readonly Sample[], minutes: number): string[] {
  const mostGrowth = minutes < growth.shortMinutes ? growth.short : growth.long;
  const third = Math.floor(samples.length / 3);
  if (third === 0) return ['too short to judge'];
  const second = samples.slice(third, 2 * third);
  const last = samples.slice(2 * third);
  const growing = Object.keys(samples[0]?.rss ?? {}).flatMap((name) => {
    const peak = (part: readonly Sample[]): number => Math.max(...part.map(({ rss }) => rss[name] ?? 0));
    const [before, after] = [peak(second), peak(last)];
    if (after <= before * (1 + mostGrowth) + 20) return [];
    return [`${name} grew from ${Math.round(before)} to ${Math.round(after)} MiB`];
  });
  const longest = Math.max(...samples.map(({ longestStream }) => longestStream));
  return longest <= mostStreamEntries ? growing : [...growing, `an event stream has ${longest} entries`];
}
