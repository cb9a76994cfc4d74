import { startProxy, waitFor, type Proxy } from '@lapse/devstack';
import { afterEach, beforeEach, describe, expect, inject, test, vi } from 'vitest';
import { createLog, type Log } from './log.ts';
import { connectRedis, type RedisConnection, type RedisRole } from './redis.ts';

declare module 'vitest' {
  // As the tests' global set-up provides it.
  interface ProvidedContext {
    readonly redisUrl: string;
  }
}

let proxy: Proxy;
let log: Log;
let messages: () => unknown[];
const connections: RedisConnection[] = [];

beforeEach(async () => {
  const { hostname, port } = new URL(inject('redisUrl'));
  proxy = await startProxy({ target: { host: hostname, port: Number(port) } });
  log = createLog('test', 'silent');
  const warn = vi.spyOn(log, 'warn').mockImplementation(() => undefined);
  const info = vi.spyOn(log, 'info').mockImplementation(() => undefined);
  messages = () =>
    [...warn.mock.calls, ...info.mock.calls].map((call) =>
      call.find((argument) => typeof argument === 'string'),
    );
});
afterEach(async () => {
  for (const redis of connections.splice(0)) redis.disconnect();
  await proxy.stop();
});

async function connect(role: RedisRole): Promise<RedisConnection> {
  const redis = connectRedis({ url: proxy.urlFor(inject('redisUrl')), role, log });
  connections.push(redis);
  await next(redis, 'ready');
  return redis;
}

/** Waits for an event. Unlike node:events' `once` it lets errors pass: they are part of the game. */
const next = (redis: RedisConnection, event: 'ready' | 'close' | 'reconnecting') =>
  new Promise<void>((resolve) => redis.once(event, () => resolve()));

describe('a producer', () => {
  test('works', async () => {
    const redis = await connect('producer');
    expect(await redis.echo('hello')).toBe('hello');
  });

  test('fails at once while Redis is away, and works again when it is back', async () => {
    const redis = await connect('producer');
    const lost = next(redis, 'close');
    await proxy.refuse();
    await lost;
    // Were it to wait for Redis, this would never end: nothing brings Redis back meanwhile.
    for (let time = 0; time < 3; time += 1) await expect(redis.echo('x')).rejects.toThrow(/writeable|closed/);
    const back = next(redis, 'ready');
    await proxy.restore();
    await back;
    expect(await redis.echo('again')).toBe('again');
  });

  test('that was under way when the connection was lost fails', async () => {
    const redis = await connect('producer');
    proxy.blackhole();
    const asked = redis.echo('x');
    const [answer] = await Promise.allSettled([asked, proxy.refuse()]);
    expect(answer).toEqual({ status: 'rejected', reason: expect.any(Error) });
    await proxy.restore();
  });

  test('does not wait for a Redis that is silent', async () => {
    const redis = await connect('producer');
    proxy.blackhole();
    await expect(redis.echo('x')).rejects.toThrow('Command timed out');
    await proxy.restore();
    await waitFor(() => redis.echo('y').catch(() => false), { what: 'Redis to answer again' });
  });
});

test('a worker waits for Redis to be back', async () => {
  const redis = await connect('worker');
  const lost = next(redis, 'close');
  await proxy.refuse();
  await lost;
  const asked = redis.echo('patience');
  await next(redis, 'reconnecting');
  await proxy.restore();
  expect(await asked).toBe('patience');
});

test('loss and return are logged once each, however often a connection is tried', async () => {
  const redis = await connect('worker');
  await proxy.refuse();
  for (let attempt = 0; attempt < 3; attempt += 1) await next(redis, 'reconnecting');
  const back = next(redis, 'ready');
  await proxy.restore();
  await back;
  expect(messages()).toEqual(['redis cannot be reached', 'redis is back']);
});
