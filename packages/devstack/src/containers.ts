import { GenericContainer, type StartedTestContainer, Wait } from 'testcontainers';
import { answersQueries } from './postgres/answers.ts';
import { redisArguments, redisSettings } from './redis/start.ts';
import { waitFor } from './wait-for.ts';
import type { Servers } from './servers.ts';

/** Which images to run. */
export interface ContainersOptions {
  /** Default `postgres:18-alpine`. */
  readonly postgresImage?: string;
  /** Default `redis:8-alpine`. */
  readonly redisImage?: string;
}

/**
 * The same two servers as `startServers`, in containers of a Docker engine (Testcontainers), with the same settings for
 * Redis; PostgreSQL trusts user `lapse` and has database `lapse`. Their data goes with them.
 *
 * @throws Error when no engine answers or an image cannot be pulled
 */
export async function startContainers({
  postgresImage = 'postgres:18-alpine',
  redisImage = 'redis:8-alpine',
}: ContainersOptions = {}): Promise<Pick<Servers, 'databaseUrl' | 'redisUrl' | 'stop'>> {
  const results = await Promise.allSettled([
    new GenericContainer(postgresImage)
      .withEnvironment({ POSTGRES_USER: 'lapse', POSTGRES_DB: 'lapse', POSTGRES_HOST_AUTH_METHOD: 'trust' })
      .withCommand(['postgres', '-c', 'max_connections=200', '-c', 'timezone=UTC'])
      .withExposedPorts(5432)
      .withWaitStrategy(Wait.forListeningPorts())
      .start(),
    new GenericContainer(redisImage)
      .withCommand(['redis-server', ...redisArguments({ ...redisSettings, 'protected-mode': 'no' })])
      .withExposedPorts(6379)
      .withWaitStrategy(Wait.forListeningPorts())
      .start(),
  ]);
  const [postgres, redis] = results;
  const started = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  const stop = async (): Promise<void> => {
    await Promise.all(started.map((container) => container.stop()));
  };
  try {
    if (postgres.status === 'rejected') throw postgres.reason;
    if (redis.status === 'rejected') throw redis.reason;
    const databaseUrl = `postgres://lapse@${address(postgres.value, 5432)}/lapse`;
    // Its entry point first runs a server without TCP, to make the database.
    await waitFor(() => answersQueries(databaseUrl), { what: postgresImage, timeoutMs: 60_000 });
    return { databaseUrl, redisUrl: `redis://${address(redis.value, 6379)}`, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function address(container: StartedTestContainer, port: number): string {
  return `${container.getHost()}:${container.getMappedPort(port)}`;
}
