import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Proxy, startProxy } from './proxy.ts';

let echo: Server;
let target: { host: string; port: number };
let proxy: Proxy;
let clients: Socket[];

beforeAll(async () => {
  echo = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    socket.pipe(socket);
  });
  echo.listen(0, '127.0.0.1');
  await once(echo, 'listening');
  const address = echo.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  target = { host: '127.0.0.1', port: address.port };
});
afterAll(() => {
  echo.close();
});

beforeEach(async () => {
  clients = [];
  proxy = await startProxy({ target });
});
afterEach(async () => {
  for (const socket of clients) socket.destroy();
  await proxy.stop();
});

async function client(): Promise<{ socket: Socket; heard(): string }> {
  const socket = connect({ host: '127.0.0.1', port: proxy.port });
  clients.push(socket);
  let text = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => (text += chunk));
  socket.on('error', () => {});
  await once(socket, 'connect');
  return { socket, heard: () => text };
}

async function expectToHear(one: { heard(): string }, text: string): Promise<void> {
  await expect.poll(() => one.heard(), { interval: 5, timeout: 5_000 }).toBe(text);
}

test('everything is passed on, large pieces and the end included', async () => {
  const one = await client();
  const text = 'lapse '.repeat(1_000_000);
  const ended = once(one.socket, 'end');
  one.socket.end(text);
  await ended;
  expect(one.heard() === text).toBe(true);
});

test('a URL is turned to the proxy', () => {
  expect(proxy.urlFor('redis://user:secret@elsewhere:6379/3')).toBe(
    `redis://user:secret@127.0.0.1:${proxy.port}/3`,
  );
});

test('a blackhole keeps old and new connections and forwards nothing until it is lifted', async () => {
  const old = await client();
  old.socket.write('before');
  await expectToHear(old, 'before');
  proxy.blackhole();
  const young = await client();
  old.socket.write(', within');
  young.socket.write('within');
  // A connection past the proxy shows that there was time enough.
  const direct = connect(target);
  direct.write('x');
  await once(direct, 'data');
  direct.destroy();
  expect([old.heard(), young.heard()]).toEqual(['before', '']);
  expect([old.socket.destroyed, young.socket.destroyed]).toEqual([false, false]);
  await proxy.restore();
  await expectToHear(old, 'before, within');
  await expectToHear(young, 'within');
});

test('a mute target hears, and is not heard until it may speak again', async () => {
  const before = await client();
  before.socket.write('before');
  await expectToHear(before, 'before');
  const heard = new Promise<void>((resolve) => {
    proxy.cutWhen((piece, from) => {
      if (from === 'client' && piece.includes('within')) resolve();
      return false;
    });
  });
  proxy.mute();
  before.socket.write(', within');
  await heard;
  expect(before.heard()).toBe('before');
  await proxy.restore();
  await expectToHear(before, 'before, within');
});

test.each(['client', 'target'] as const)(
  'a connection is cut at a piece of the %s, which is lost',
  async (side) => {
    proxy.cutWhen((piece, from) => from === side && piece.includes('commit'));
    const other = await client();
    const one = await client();
    one.socket.write('begin');
    await expectToHear(one, 'begin');
    const closed = once(one.socket, 'close');
    one.socket.write('commit');
    await closed;
    expect(one.heard()).toBe('begin');
    other.socket.write('select');
    await expectToHear(other, 'select');
    await proxy.restore();
    other.socket.write(' commit');
    await expectToHear(other, 'select commit');
  },
);

test('a cut ends the connections there are, and new ones work', async () => {
  const old = await client();
  const closed = once(old.socket, 'close');
  proxy.cut();
  await closed;
  const young = await client();
  young.socket.write('after');
  await expectToHear(young, 'after');
});

test('refusing ends the connections and takes no new ones until it is lifted', async () => {
  const old = await client();
  const closed = once(old.socket, 'close');
  await proxy.refuse();
  await closed;
  await expect(client()).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  await proxy.restore();
  const young = await client();
  young.socket.write('after');
  await expectToHear(young, 'after');
});

describe('a delay', () => {
  test('holds each piece back, both ways', async () => {
    proxy.delay(100);
    const one = await client();
    const sentAt = performance.now();
    one.socket.write('slow');
    await expectToHear(one, 'slow');
    expect(performance.now() - sentAt).toBeGreaterThanOrEqual(195);
  });

  test('keeps the order when it is shortened', async () => {
    const one = await client();
    proxy.delay(150);
    one.socket.write('first ');
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    proxy.delay(0);
    one.socket.write('second');
    await expectToHear(one, 'first second');
  });
});

test('a client whose target is not there is disconnected', async () => {
  const lonely = await startProxy({ target: { host: '127.0.0.1', port: 1 } });
  const socket = connect({ host: '127.0.0.1', port: lonely.port });
  socket.on('error', () => {});
  expect(await once(socket, 'close')).toEqual([false]);
  await lonely.stop();
});
