import { createServer } from 'node:net';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { freePort, isPortFree, onPort } from './ports.ts';
import { waitFor } from './wait-for.ts';

test('the first truthy answer is returned', async () => {
  let count = 0;
  expect(await waitFor(() => (++count === 3 ? 'third' : ''), { what: 'the third' })).toBe('third');
});

test('what was waited for in vain is named', async () => {
  await expect(waitFor(() => false, { what: 'Godot', timeoutMs: 20 })).rejects.toThrow(
    'waited 20 ms in vain for Godot',
  );
});

test('a predicate that throws ends the wait', async () => {
  const wait = waitFor(() => Promise.reject(new Error('broken')), { what: 'nothing' });
  await expect(wait).rejects.toThrow('broken');
});

test('a free port that was taken in between is replaced by another', async () => {
  const thief = createServer();
  const ports: number[] = [];
  const used = await onPort(undefined, 'a test', async (port) => {
    ports.push(port);
    if (ports.length > 1) return port;
    thief.listen(port, '127.0.0.1');
    await once(thief, 'listening');
    throw new Error('address in use');
  });
  expect(ports).toEqual([expect.any(Number), used]);
  expect(await isPortFree(ports[0] ?? 0)).toBe(false);
  expect(await isPortFree(await freePort())).toBe(true);
  thief.close();
});
