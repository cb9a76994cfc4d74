import {
  Cluster,
  Redis,
  type ClusterOptions,
  type CommonRedisOptions,
  type DNSLookupFunction,
  type RedisOptions,
} from 'ioredis';
import type { Log } from './log.ts';
import { ProducerCluster } from './redis-cluster.ts';
import { parseRedisUrl, type RedisTarget } from './redis-url.ts';

/** A connection to the Redis that holds the delays: to one server, or to all nodes of a cluster. */
export type RedisConnection = Redis | Cluster;

/** How long a producer waits for an answer of Redis, ms. */
const commandTimeoutMs = 500;

/**
 * After this long without any answer a connection is given up and made anew, ms. Without it a connection whose peer
 * vanished silently (a firewall, a lost node) hangs until TCP gives up, 15 minutes later. A worker's blocking calls
 * answer after 10 s at the latest.
 */
const silenceMs = { producer: 5000, worker: 15_000 } as const satisfies Record<RedisRole, number>;

/**
 * Who uses a connection decides how it fails. A `producer` stands in a customer's request: it fails at once while
 * Redis is away, and after 500 ms where Redis is silent. A `worker` has nothing better to do than to wait. In a cluster
 * both is meant of each node by itself.
 */
export type RedisRole = 'producer' | 'worker';

const options = {
  producer: { maxRetriesPerRequest: 1, commandTimeout: commandTimeoutMs },
  // BullMQ asks for null: its blocking calls outlive any number of reconnects.
  worker: { maxRetriesPerRequest: null },
} as const satisfies Record<RedisRole, CommonRedisOptions>;

/** How commands go on in a cluster where a node is lost. `maxRetriesPerRequest` says nothing there. */
const clusterOptions = {
  // Topology is read again every 5 s: a node that is silent answers no MOVED.
  producer: { retryDelayOnFailover: 0, retryDelayOnClusterDown: 0, slotsRefreshInterval: 5000 },
  worker: {
    // Each try of a waiting command asks a node that is well where the slot is now: not too often.
    retryDelayOnFailover: 500,
    retryDelayOnClusterDown: 500,
    maxRedirections: Number.POSITIVE_INFINITY,
  },
} as const satisfies Record<RedisRole, ClusterOptions>;

const retryDelayMs = (attempt: number): number => Math.min(attempt * 100, 1000);

/**
 * Connects to Redis, in any form of `REDIS_URL`, and connects again for as long as it takes. Loss and return are logged
 * once each, in a cluster also for each node. Automatic pipelining stays off: it halved BullMQ's throughput.
 *
 * @throws TypeError for a URL that settings would have refused
 */
export function connectRedis(connection: { url: string; role: RedisRole; log: Log }): RedisConnection {
  const { url, role, log } = connection;
  const parsed = parseRedisUrl(url);
  if ('problems' in parsed) throw new TypeError(`the URL of Redis ${parsed.problems.join(', ')}`);
  const redis = connect(parsed.target, role);
  let reachable: boolean | undefined;
  redis.on('ready', () => {
    if (reachable === false) log.info({ role }, 'redis is back');
    reachable = true;
  });
  redis.on('error', (error: Error) => {
    if (reachable !== false) log.warn({ role, err: causeOf(error) }, 'redis cannot be reached');
    reachable = false;
  });
  if (redis instanceof Cluster) logNodes(redis, role, log);
  return redis;
}

/** Of a cluster, what the node said that was asked last: "cluster support disabled", for one. */
function causeOf(error: Error): unknown {
  return ('lastNodeError' in error ? error.lastNodeError : undefined) ?? error;
}

/** What every connection of a role has, to whatever kind of Redis. */
function sharedOptions(role: RedisRole) {
  return {
    ...options[role],
    socketTimeout: silenceMs[role],
    connectTimeout: 3000,
    keepAlive: 10_000,
  } satisfies CommonRedisOptions;
}

function connect(target: RedisTarget, role: RedisRole): RedisConnection {
  if (target.kind === 'cluster') return connectCluster(target, role);
  const one = {
    ...sharedOptions(role),
    enableOfflineQueue: role === 'worker',
    retryStrategy: retryDelayMs,
    // Said by a master that became a replica: a new connection finds the new master.
    reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
  } satisfies RedisOptions;
  if (target.kind === 'single') return new Redis(target.url, one);
  const { sentinels, sentinelLogin, masterName, database, tls, username, password } = target;
  return new Redis({
    ...one,
    username,
    password,
    sentinels: [...sentinels],
    sentinelUsername: sentinelLogin.username,
    sentinelPassword: sentinelLogin.password,
    sentinelCommandTimeout: 1000,
    sentinelRetryStrategy: retryDelayMs,
    name: masterName,
    db: database,
    ...(tls ? { tls: {}, enableTLSForSentinelMode: true, sentinelTLS: {} } : {}),
  });
}

function connectCluster(target: Extract<RedisTarget, { kind: 'cluster' }>, role: RedisRole): Cluster {
  const { nodes, tls, username, password } = target;
  const all = {
    ...clusterOptions[role],
    clusterRetryStrategy: retryDelayMs,
    // It asks one node at random for the state of the cluster. Where that node is silent or says `fail`, the promise of
    // `connect()` never settles (ioredis 6.0.0), and a BullMQ worker that waits for it has stopped for good: at least
    // one partition in 4 of 10 failovers from a silent master, none in 3 without the check.
    enableReadyCheck: false,
    // Room for the new topology to be read: 16 redirections at once are over before it is.
    retryDelayOnMoved: 10,
    redisOptions: { ...sharedOptions(role), username, password, ...(tls ? { tls: {} } : {}) },
    // Certificates are for names: with TLS they are not replaced by addresses.
    ...(tls ? { dnsLookup: keepName } : {}),
  } satisfies ClusterOptions;
  return role === 'producer' ? new ProducerCluster([...nodes], all) : new Cluster([...nodes], all);
}

const keepName: DNSLookupFunction = (host, found) => found(null, host);

/** The cluster as a whole is there as long as one node answers; each node is told of by itself. */
function logNodes(cluster: Cluster, role: RedisRole, log: Log): void {
  const away = new Set<string>();
  cluster.on('+node', (node: Redis) => {
    const name = nameOf(node);
    node.on('ready', () => {
      if (away.delete(name)) log.info({ role, node: name }, 'a node of redis is back');
    });
    node.on('error', (error) => {
      if (!away.has(name)) log.warn({ role, node: name, err: error }, 'a node of redis cannot be reached');
      away.add(name);
    });
  });
  cluster.on('refresh', () => {
    if (away.size === 0) return;
    const serving = servingNodes(cluster);
    for (const name of away) {
      if (serving.has(name)) continue;
      away.delete(name);
      log.info({ role, node: name }, 'a node of redis was replaced by another');
    }
  });
}

/** The masters that serve slots, as far as they are known. */
function servingNodes({ slots }: Cluster): ReadonlySet<string> {
  return new Set(slots.flatMap(([master]) => (master === undefined ? [] : [master])));
}

/** Of how many nodes, and how many of them answer. One server counts as one node. */
export interface NodeCount {
  readonly answering: number;
  /** In a cluster: the masters that serve slots; 0 while they are not known. */
  readonly all: number;
}

/** Counts the nodes that answer within 500 ms, on a producer's connection. Never rejects. */
export async function countNodes(redis: RedisConnection): Promise<NodeCount> {
  if (!(redis instanceof Cluster)) return { answering: (await answers(redis)) ? 1 : 0, all: 1 };
  const serving = servingNodes(redis);
  // A node that was lost is not among them.
  const connected = redis.nodes().filter((node) => serving.has(nameOf(node)));
  const answered = await Promise.all(connected.map(answers));
  return { answering: answered.filter(Boolean).length, all: serving.size };
}

async function answers(redis: Redis): Promise<boolean> {
  try {
    return (await redis.ping()) === 'PONG';
  } catch {
    return false;
  }
}

function nameOf({ options: { host, port } }: Redis): string {
  return `${host}:${port}`;
}
