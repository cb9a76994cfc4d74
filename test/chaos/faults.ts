import { setTimeout as delay } from 'node:timers/promises';

import type { Proxy } from '@lapse/devstack';
import { OperatorError } from '@lapse/runtime';

import { between, oneOf, type Random } from './random.ts';
import type { Member } from './member.ts';
import type { System } from './system.ts';

/** Something that goes wrong, and how it is put right. */
export interface Fault {
  /** What happens, for people. */
  readonly what: string;
  /** What it works on. Faults that work on the same are not combined. */
  readonly touches: readonly ('redis' | 'postgres' | 'api' | 'worker' | 'network' | 'provider')[];
  /** How long it lasts before it is healed, ms; 0 where it is over at once. */
  readonly lastsMs: number;
  /** Failures of calls it excuses, where not all; see `Load.failures`. */
  readonly excuses?: readonly string[];
  /** Whether nobody can expire orders in time while it lasts. Otherwise more than 3 s is late (invariant 5). */
  readonly holdsUpExpiry?: true;
  /** Makes it happen; answers with what puts it right. */
  inject(system: System, random: Random): Promise<Heal>;
}

type Heal = () => Promise<unknown>;

const nothing: Heal = () => Promise.resolve();
const clockOffsetMs = 30_000;

const killed = (member: Member): Promise<Heal> => member.kill().then(() => () => member.start());

function stopped(member: Member): Heal {
  member.signal('SIGSTOP');
  return () => {
    member.signal('SIGCONT');
    return Promise.resolve();
  };
}

/** A fault of the network between processes and a server. */
async function network(proxies: readonly Proxy[], fault: (proxy: Proxy) => void): Promise<Heal> {
  for (const proxy of proxies) fault(proxy);
  return () => Promise.all(proxies.map((proxy) => proxy.restore()));
}

/** A worker whose clock is wrong. */
async function skewed(member: Member, offsetMs: number): Promise<Heal> {
  await member.drain();
  await member.start(offsetMs);
  return async () => {
    await member.drain();
    await member.start();
  };
}

async function redisGone({ servers }: System): Promise<Heal> {
  await servers.redis.end('SIGKILL');
  return () => servers.redis.startAgain();
}

/** Does something again and again until it is healed. */
function repeatedly(leastMs: number, mostMs: number, random: Random, act: () => void): Heal {
  let timer: NodeJS.Timeout;
  const next = (): void => {
    timer = setTimeout(
      () => {
        act();
        next();
      },
      between(random, leastMs, mostMs),
    );
  };
  next();
  return () => {
    clearTimeout(timer);
    return Promise.resolve();
  };
}

/** COMMIT as a client sends it: a simple query with its length. */
const commitMessage = Buffer.from('Q\0\0\0\u000Bcommit\0');
/** The answer that says that it was done. */
const commitTag = Buffer.from('C\0\0\0\u000BCOMMIT\0');

/** Every fault by its name on the command line. */
export const faults: Readonly<Record<string, Fault>> = {
  none: {
    what: 'nothing, for comparison',
    touches: [],
    lastsMs: 0,
    excuses: [],
    inject: () => Promise.resolve(nothing),
  },
  'worker-kill': {
    what: 'a worker is killed with SIGKILL, and started again 3 s later',
    touches: ['worker'],
    lastsMs: 3000,
    excuses: [],
    inject: ({ workers }, random) => killed(oneOf(random, workers)),
  },
  'worker-stop': {
    what: 'a worker stands still for 6 s (SIGSTOP)',
    touches: ['worker'],
    lastsMs: 6000,
    inject: ({ workers }, random) => Promise.resolve(stopped(oneOf(random, workers))),
  },
  'api-kill': {
    what: 'an api is killed with SIGKILL, and started again 3 s later',
    touches: ['api'],
    lastsMs: 3000,
    inject: ({ apis }, random) => killed(oneOf(random, apis)),
  },
  'api-stop': {
    what: 'an api stands still for 6 s (SIGSTOP)',
    touches: ['api'],
    lastsMs: 6000,
    inject: ({ apis }, random) => Promise.resolve(stopped(oneOf(random, apis))),
  },
  'redis-kill': {
    what: 'Redis is killed with SIGKILL and started again on its append-only file',
    touches: ['redis'],
    lastsMs: 1000,
    excuses: [],
    inject: redisGone,
  },
  'redis-flush': {
    what: 'FLUSHALL: every job is lost',
    touches: ['redis'],
    lastsMs: 0,
    excuses: [],
    inject: ({ redis }) => redis.flushall().then(() => nothing),
  },
  'redis-down': {
    what: 'Redis is gone for 30 s',
    touches: ['redis'],
    lastsMs: 30_000,
    excuses: [],
    inject: redisGone,
  },
  'redis-full': {
    what: 'Redis is over maxmemory for 10 s: it refuses every write',
    touches: ['redis'],
    lastsMs: 10_000,
    excuses: [],
    async inject({ redis }) {
      const used = /used_memory:(\d+)/.exec(await redis.info('memory'))?.[1];
      await redis.config('RESETSTAT');
      // A limit just above what is used is no fault: what jobs that end leave free is enough for new ones.
      await redis.config('SET', 'maxmemory', String(Math.floor(Number(used) / 2)));
      return async () => {
        await redis.config('SET', 'maxmemory', '0');
        const isRefusing = (await redis.info('errorstats')).includes('errorstat_OOM');
        if (!isRefusing) throw new Error('Redis refused nothing');
      };
    },
  },
  'postgres-restart': {
    what: 'PostgreSQL is stopped at once (SIGQUIT) and started again 1 s later',
    touches: ['postgres'],
    lastsMs: 1000,
    holdsUpExpiry: true,
    async inject({ servers }) {
      await servers.postgres.end('SIGQUIT');
      return () => servers.postgres.startAgain();
    },
  },
  'cut-once': {
    what: 'every connection to servers and payment providers is cut at once',
    touches: ['network'],
    lastsMs: 0,
    inject: ({ members }) => {
      for (const { proxies } of members) for (const proxy of proxies) proxy.cut();
      return Promise.resolve(nothing);
    },
  },
  'cut-often': {
    what: "one process's connections to one server or provider are cut every 20 to 200 ms, for 8 s",
    touches: ['network'],
    lastsMs: 8000,
    inject: ({ members }, random) =>
      Promise.resolve(repeatedly(20, 200, random, () => oneOf(random, oneOf(random, members).proxies).cut())),
  },
  'cut-in-commit': {
    what: 'every fifth connection is cut in COMMIT, before it arrives or before its answer does, for 8 s',
    touches: ['network'],
    lastsMs: 8000,
    async inject({ members }, random) {
      let cutCount = 0;
      const proxies = members.map(({ postgres }) => postgres);
      const restore = await network(proxies, (proxy) =>
        proxy.cutWhen((piece, from) => {
          const isCut = piece.includes(from === 'client' ? commitMessage : commitTag) && random() < 0.1;
          if (isCut) cutCount += 1;
          return isCut;
        }),
      );
      return async () => {
        await restore();
        // Should the driver ever write COMMIT otherwise, this fault would do nothing, and nobody would know.
        if (cutCount === 0) throw new Error('no connection was cut in COMMIT');
      };
    },
  },
  slow: {
    what: 'everything between processes, servers and payment providers takes 50 to 200 ms longer, each way, for 10 s',
    touches: ['network'],
    lastsMs: 10_000,
    holdsUpExpiry: true,
    inject: ({ members }, random) =>
      network(
        members.flatMap(({ proxies }) => proxies),
        (proxy) => proxy.delay(between(random, 50, 200)),
      ),
  },
  'half-open-postgres': {
    what: 'one api and one worker hear nothing of PostgreSQL any more, for 10 s',
    touches: ['network'],
    lastsMs: 10_000,
    inject: ({ apis, workers }, random) =>
      network([oneOf(random, apis).postgres, oneOf(random, workers).postgres], (proxy) => proxy.mute()),
  },
  'half-open-redis': {
    what: 'one api and one worker hear nothing of Redis any more, for 10 s',
    touches: ['network'],
    lastsMs: 10_000,
    excuses: [],
    inject: ({ apis, workers }, random) =>
      network([oneOf(random, apis).redis, oneOf(random, workers).redis], (proxy) => proxy.mute()),
  },
  'silent-postgres': {
    what: 'nothing passes between any process and PostgreSQL for 10 s, connections stay open',
    touches: ['network'],
    lastsMs: 10_000,
    holdsUpExpiry: true,
    inject: ({ members }) =>
      network(
        members.map(({ postgres }) => postgres),
        (proxy) => proxy.blackhole(),
      ),
  },
  'silent-redis': {
    what: 'nothing passes between any process and Redis for 10 s, connections stay open',
    touches: ['network'],
    lastsMs: 10_000,
    excuses: [],
    inject: ({ members }) =>
      network(
        members.map(({ redis }) => redis),
        (proxy) => proxy.blackhole(),
      ),
  },
  'clock-ahead': {
    what: 'the clock of one worker is 30 s ahead',
    touches: ['worker'],
    lastsMs: 8000,
    excuses: [],
    inject: ({ workers }, random) => skewed(oneOf(random, workers), clockOffsetMs),
  },
  'clock-behind': {
    what: 'the clock of one worker is 30 s behind',
    touches: ['worker'],
    lastsMs: 8000,
    excuses: [],
    inject: ({ workers }, random) => skewed(oneOf(random, workers), -clockOffsetMs),
  },
  'provider-down': {
    what: 'payment providers refuse every call, and keep their webhooks, for 20 s',
    touches: ['provider'],
    lastsMs: 20_000,
    excuses: [],
    inject({ services }) {
      services.fail();
      return Promise.resolve(() => Promise.resolve(services.recover()));
    },
  },
  'provider-slow': {
    what: 'payment providers answer after 5 s, for 20 s',
    touches: ['provider'],
    lastsMs: 20_000,
    excuses: [],
    inject({ services }) {
      services.slowDown(5000);
      return Promise.resolve(() => Promise.resolve(services.recover()));
    },
  },
  'rolling-restart': {
    what: 'every process is told to stop and started again, one after the other',
    touches: ['api', 'worker'],
    lastsMs: 0,
    excuses: ['refused', '503 unavailable'],
    async inject({ members }) {
      for (const member of members) {
        await member.drain();
        await member.start();
        await delay(500);
      }
      return nothing;
    },
  },
};

/** @throws OperatorError where there is no such fault */
export function faultNamed(name: string): Fault {
  const fault = faults[name];
  if (fault === undefined) throw new OperatorError(`There is no fault ${name}. --list names them.`);
  return fault;
}

/** A few faults that do not touch the same, drawn by the seed, joined by `+`. */
export function drawCombination(random: Random): string {
  const count = between(random, 2, 3);
  const chosen: string[] = [];
  const touched = new Set<string>();
  while (chosen.length < count) {
    const name = oneOf(random, Object.keys(faults));
    const touches = faults[name]?.touches ?? [];
    if (touches.length === 0 || touches.some((one) => touched.has(one))) continue;
    for (const one of touches) touched.add(one);
    chosen.push(name);
  }
  return chosen.join('+');
}
