import { Cluster, type ChainableCommander, type Command } from 'ioredis';

/** A command of a producer found no cluster to go to. */
class ClusterAway extends Error {
  readonly code = 'cluster_away';

  constructor() {
    super('no node of the redis cluster answers');
    this.name = 'ClusterAway';
  }
}

/**
 * A cluster as a producer needs it: a command that finds no connection fails at once, and none takes longer than
 * `commandTimeout`, waiting and redirections included.
 *
 * The library's own ways do not do. `enableOfflineQueue: false` refuses what arrives while the connection to a node is
 * being made, and of the first pipeline to a node it sends only the first command, which then has no answer. With it,
 * `commandTimeout` counts only from the moment a node was found: while there is none, commands wait for ever (ioredis
 * #1604).
 */
export class ProducerCluster extends Cluster {
  override sendCommand(...[command, ...rest]: Parameters<Cluster['sendCommand']>): unknown {
    // `cluster` is what the client asks for itself, before it is ready.
    if (this.status !== 'ready' && command.name !== 'cluster') return refuse(command);
    const { commandTimeout } = this.options.redisOptions ?? {};
    if (commandTimeout !== undefined) command.setTimeout(commandTimeout);
    return super.sendCommand(command, ...rest);
  }

  override pipeline(commands?: unknown[][]): ChainableCommander {
    const pipeline = super.pipeline(commands);
    // It would wait until the slots are known.
    if (this.slots.length === 0) pipeline.exec = () => Promise.reject(new ClusterAway());
    return pipeline;
  }
}

function refuse(command: Command): Promise<unknown> {
  command.reject(new ClusterAway());
  return command.promise;
}
