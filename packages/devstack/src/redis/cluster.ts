import { join } from 'node:path';
import type { Environment, OnNotice } from '../environment.ts';
import { isPortFree } from '../ports.ts';
import { waitFor } from '../wait-for.ts';
import { askRedis } from './ask.ts';
import { findRedisProgram, startMember, type RedisMember } from './member.ts';

const slotCount = 16_384;

/** Nodes talk to each other on the port this much higher. */
const busOffset = 10_000;

/** Settings on top of `redisSettings`. */
const clusterSettings = {
  'cluster-enabled': 'yes',
  // The other partitions go on while the slots of one are nobody's.
  'cluster-require-full-coverage': 'no',
  // How long a node may be silent before the others judge it, ms; 15,000 by default.
  'cluster-node-timeout': 2000,
  // A replica stands for election however old its data are: on a busy machine none would be left.
  'cluster-replica-validity-factor': 0,
  'cluster-announce-ip': '127.0.0.1',
  // A new replica would else wait 5 s for company.
  'repl-diskless-sync-delay': 0,
} as const;

/** How large a cluster is, and where its data go. */
export interface RedisClusterOptions {
  /** A folder for those of its nodes. */
  readonly dataDir: string;
  /** Default 3, the least that can elect. */
  readonly masters?: number;
  /** Default 1. */
  readonly replicasPerMaster?: number;
  /** On top of `redisSettings` and those of a cluster. */
  readonly settings?: Readonly<Record<string, string | number>>;
  readonly onNotice?: OnNotice;
  readonly env?: Environment;
}

/** A Redis Cluster on 127.0.0.1. */
export interface RedisCluster {
  /** `redis+cluster://` with all nodes. */
  readonly url: string;
  /** The first masters first, then their replicas. */
  readonly nodes: readonly RedisMember[];
  /** The master that serves a key, as a node that runs sees it; undefined while there is none. */
  masterOf(key: string): Promise<RedisMember | undefined>;
  /** Waits until all nodes run and agree, every slot has a master, and the replicas are up to date. */
  untilWhole(): Promise<void>;
  stop(): Promise<void>;
}

/**
 * Starts the nodes of a Redis Cluster as processes of this machine and joins them. Takes about 3 s.
 *
 * @throws as `startRedis`; DevstackError `redis_not_found` where there is a Docker engine only, `not_ready`
 */
export async function startRedisCluster(options: RedisClusterOptions): Promise<RedisCluster> {
  const { dataDir, masters = 3, replicasPerMaster = 1, settings, env } = options;
  await findRedisProgram('a Redis Cluster', options);
  const ports = await clusterPorts(masters * (1 + replicasPerMaster));
  const starting = ports.map((port, n) =>
    startMember({
      dataDir: join(dataDir, `node-${n}`),
      port,
      settings: { ...clusterSettings, ...settings },
      env,
    }),
  );
  const started = await Promise.allSettled(starting);
  const nodes = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  const stop = async (): Promise<void> => {
    await Promise.all(nodes.map((node) => node.stop()));
  };
  const untilWhole = async (): Promise<void> => {
    await waitFor(
      async () => (await Promise.all(ports.map((port) => isWhole(port, ports.length)))).every(Boolean),
      {
        what: `the ${ports.length} nodes of a Redis Cluster to agree`,
        timeoutMs: 60_000,
      },
    );
  };
  try {
    // What one of them threw.
    await Promise.all(starting);
    await joinNodes(ports, masters);
    await untilWhole();
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    url: `redis+cluster://${ports.map((port) => `127.0.0.1:${port}`).join(',')}`,
    nodes,
    async masterOf(key) {
      for (const { port } of nodes) {
        const slot = Number((await askRedis(port, `CLUSTER KEYSLOT ${key}`))?.split('\r\n')[0]?.slice(1));
        // One that does not answer sees nothing.
        const view = await viewOf(port);
        const master = view.find((node) => node.isMaster && !node.hasFailed && node.serves(slot));
        const found = nodes.find((node) => node.isRunning && node.port === master?.port);
        if (found !== undefined) return found;
      }
      return undefined;
    },
    untilWhole,
    stop,
  };
}

/** Gives the first `masters` nodes the slots in equal parts, introduces all to each other, and makes the rest replicas. */
async function joinNodes(ports: readonly number[], masters: number): Promise<void> {
  await Promise.all(
    ports.slice(0, masters).map(async (port, n) => {
      // Each an epoch of its own: else they would have to settle first whose view counts.
      await order(port, `CLUSTER SET-CONFIG-EPOCH ${n + 1}`);
      const first = Math.floor((n * slotCount) / masters);
      const slots = Array.from(
        { length: Math.floor(((n + 1) * slotCount) / masters) - first },
        (_, i) => first + i,
      );
      // ADDSLOTSRANGE came with Redis 7, and one line holds 64 KB.
      for (let start = 0; start < slots.length; start += 4000) {
        await order(port, `CLUSTER ADDSLOTS ${slots.slice(start, start + 4000).join(' ')}`);
      }
    }),
  );
  const [first = 0, ...others] = ports;
  for (const port of others) await order(first, `CLUSTER MEET 127.0.0.1 ${port}`);
  await waitFor(
    async () => {
      const views = await Promise.all(ports.map(viewOf));
      return views.every(
        (view) => view.length === ports.length && view.every(({ isConnected }) => isConnected),
      );
    },
    { what: 'the nodes of a Redis Cluster to know each other', timeoutMs: 30_000 },
  );
  await Promise.all(
    ports.slice(masters).map(async (port, n) => {
      const master = (await viewOf(port)).find((node) => node.port === ports[n % masters]);
      await order(port, `CLUSTER REPLICATE ${master?.id ?? ''}`);
    }),
  );
}

async function order(port: number, command: string): Promise<void> {
  const answer = await askRedis(port, command);
  if (answer?.startsWith('+OK') !== true) {
    throw new Error(`Redis on ${port} answered ${command.slice(0, 40)} with ${answer ?? 'nothing'}`);
  }
}

/** Whether a node sees all others at work, all slots served, and, as a replica, has its master's data. */
async function isWhole(port: number, nodeCount: number): Promise<boolean> {
  const [view, info, replication] = await Promise.all([
    viewOf(port),
    askRedis(port, 'CLUSTER INFO'),
    askRedis(port, 'INFO replication'),
  ]);
  const masterCount = view.filter(({ isMaster, slotRanges }) => isMaster && slotRanges.length > 0).length;
  const replicaCount = view.filter(({ isMaster }) => !isMaster).length;
  return (
    view.length === nodeCount &&
    masterCount + replicaCount === nodeCount &&
    view.every(({ isConnected, hasFailed }) => isConnected && !hasFailed) &&
    info?.includes('cluster_state:ok') === true &&
    info.includes(`cluster_slots_ok:${slotCount}\r`) &&
    replication !== undefined &&
    (replication.includes('role:master') || replication.includes('master_link_status:up'))
  );
}

interface SeenNode {
  readonly id: string;
  readonly port: number;
  readonly isMaster: boolean;
  readonly hasFailed: boolean;
  readonly isConnected: boolean;
  readonly slotRanges: readonly (readonly [number, number])[];
  serves(slot: number): boolean;
}

/** All nodes as one of them sees them; none where it does not answer. */
async function viewOf(port: number): Promise<readonly SeenNode[]> {
  const answer = (await askRedis(port, 'CLUSTER NODES')) ?? '';
  return answer.split('\n').flatMap((line): SeenNode[] => {
    const [id = '', address = '', flags = '', , , , , link, ...slots] = line.trim().split(' ');
    const seenPort = /:(\d+)@/.exec(address)?.[1];
    if (seenPort === undefined) return [];
    const slotRanges = slots
      .filter((range) => !range.startsWith('['))
      .map((range) => {
        const [from = '', to = from] = range.split('-');
        return [Number(from), Number(to)] as const;
      });
    return [
      {
        id,
        port: Number(seenPort),
        isMaster: flags.includes('master'),
        hasFailed: flags.includes('fail'),
        isConnected: link === 'connected' && !flags.includes('handshake'),
        slotRanges,
        serves: (slot) => slotRanges.some(([from, to]) => from <= slot && slot <= to),
      },
    ];
  });
}

/**
 * Ports that are free, each with its bus port. They lie below those that systems hand out for outgoing connections
 * (from 32,768), so that none is taken while its node is away.
 */
async function clusterPorts(count: number): Promise<number[]> {
  const ports: number[] = [];
  let port = 11_000 + Math.floor(Math.random() * 9000);
  while (ports.length < count) {
    port = port >= 20_900 ? 11_000 : port + 1;
    if ((await isPortFree(port)) && (await isPortFree(port + busOffset))) ports.push(port);
  }
  return ports;
}
