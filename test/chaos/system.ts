import { fileURLToPath } from 'node:url';

import { createTestDatabase, freePort, startProxy, type Proxy } from '@lapse/devstack';
import { connectRedis, openDatabase, type Database, type RedisConnection } from '@lapse/runtime';

import { root } from '../root.ts';
import { Member } from './member.ts';
import { log, type Servers } from './servers.ts';
import { PaymentServices, type ProviderName } from './services.ts';

/** The API key of the fleet. */
export const apiKey = 'chaos-key-0123456789abcdef';

/** Customers are reminded, and what late money does depends on how they wished to pay. */
const policies = fileURLToPath(new URL('policies.json', import.meta.url));

/** Processes of Lapse on a fresh database and an empty Redis. */
export interface System {
  readonly servers: Servers;
  readonly apis: readonly Member[];
  readonly workers: readonly Member[];
  readonly members: readonly Member[];
  /** The payment providers that they are connected with. */
  readonly services: PaymentServices;
  /** Past the proxies, for looking. */
  readonly database: Database;
  readonly redis: RedisConnection;
  /** Processes that ended although nobody told them to, or did not when they were. */
  readonly crashes: readonly string[];
  /** Ends every fault there may be: proxies pass everything, every process runs. */
  heal(): Promise<void>;
  stop(): Promise<void>;
}

function proxyTo({ port }: { readonly port: number }): Promise<Proxy> {
  return startProxy({ target: { host: '127.0.0.1', port } });
}

/**
 * Starts two payment providers, two apis and three workers.
 *
 * @param seed decides what the providers do with each attempt
 */
export async function startSystem(servers: Servers, seed: string): Promise<System> {
  // A run that failed may have left one down.
  await Promise.all([servers.postgres.startAgain(), servers.redis.startAgain()]);
  const own = await createTestDatabase({ adminUrl: servers.postgres.url, template: servers.template.name });
  const database = openDatabase({ url: own.url, app: 'chaos', log, max: 4 });
  const redis = connectRedis({ url: servers.redis.url, role: 'worker', log });
  await redis.config('SET', 'maxmemory', '0');
  await redis.flushall();
  const crashes: string[] = [];
  const members: Member[] = [];
  const services = await PaymentServices.start(seed);
  /** Where the providers' webhooks go: to the apis, through their proxies. */
  const doors: string[] = [];
  let isStopping = false;

  const member = async (app: 'api' | 'worker', number: number): Promise<Member> => {
    const [toPostgres, toRedis, port] = await Promise.all([
      proxyTo(servers.postgres),
      proxyTo(servers.redis),
      freePort(),
    ]);
    const others: Proxy[] = [];
    const urls = new Map<ProviderName, string>();
    for (const [provider, service] of services.all) {
      const toService = await proxyTo(service);
      others.push(toService);
      urls.set(provider, toService.urlFor(service.url));
    }
    if (app === 'api') {
      const door = await proxyTo({ port });
      others.push(door);
      doors.push(`http://127.0.0.1:${door.port}`);
    }
    const name = `${app}-${number}`;
    const made = new Member({
      name,
      port,
      postgres: toPostgres,
      redis: toRedis,
      others,
      app: {
        app,
        root,
        name,
        env: {
          DATABASE_URL: toPostgres.urlFor(own.url),
          REDIS_URL: toRedis.urlFor(servers.redis.url),
          LAPSE_HOST: '127.0.0.1',
          LAPSE_PARTITIONS: '2',
          LAPSE_API_KEY: apiKey,
          LAPSE_POLICIES: policies,
          // The providers take what they get: what is measured here is not their limit.
          LAPSE_PROVIDER_RATE: '1000',
          ...PaymentServices.settings(urls),
        },
      },
      onCrash(how) {
        crashes.push(how);
        if (!isStopping) void made.start().catch((error: unknown) => crashes.push(String(error)));
      },
    });
    members.push(made);
    return made;
  };
  const stop = async (): Promise<void> => {
    isStopping = true;
    await Promise.all(members.map((one) => one.drain()));
    await services.stop();
    await Promise.all(members.flatMap(({ proxies }) => proxies.map((proxy) => proxy.stop())));
    redis.disconnect();
    await database.end();
    await own.drop();
  };
  try {
    const apis = await Promise.all([1, 2].map((number) => member('api', number)));
    const workers = await Promise.all([1, 2, 3].map((number) => member('worker', number)));
    await Promise.all(members.map((one) => one.start()));
    services.deliverTo(doors);
    return {
      servers,
      apis,
      workers,
      members,
      services,
      database,
      redis,
      crashes,
      async heal() {
        services.recover();
        await Promise.all(members.flatMap(({ proxies }) => proxies.map((proxy) => proxy.restore())));
        for (const one of members) one.signal('SIGCONT');
        await Promise.all(members.map((one) => one.start()));
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
