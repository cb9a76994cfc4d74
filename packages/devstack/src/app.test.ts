import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { spawnApp } from './app.ts';
import { scratchFolder } from './fixtures/scratch.ts';

/** Listens, says that it is ready as pino would, and can misbehave as BEHAVIOUR says. */
const standIn = `
  import { createServer } from 'node:http';

  const { BEHAVIOUR = 'ready', GREETING = 'hello' }: Record<string, string | undefined> = process.env;
  console.log('a line that is no JSON and says "ready"');
  if (BEHAVIOUR === 'fail') {
    console.error('DATABASE_URL is missing');
    process.exitCode = 3;
  } else {
    const server = createServer((_request, response) => {
      for (let line = 1; line <= 600; line += 1) console.log('line ' + line);
      response.end(GREETING);
    });
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      console.log(JSON.stringify({ level: 30, port, msg: BEHAVIOUR === 'silent' ? 'starting' : 'ready' }));
    });
    process.once('SIGTERM', () => {
      server.closeAllConnections();
      server.close();
    });
  }
`;

let root: string;
beforeAll(async () => {
  root = await scratchFolder();
  const folder = join(root, 'apps', 'api', 'src');
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'main.ts'), standIn);
  await writeFile(join(root, 'package.json'), '{ "type": "module" }');
});

test('an app is started with the given settings, ready on its port, and stopped in good order', async () => {
  const lines: string[] = [];
  const app = await spawnApp({
    app: 'api',
    root,
    env: { GREETING: 'good day' },
    onLine: (line) => lines.push(line),
  });
  expect(app).toMatchObject({ name: 'api', url: `http://127.0.0.1:${app.port}` });
  expect(await (await fetch(app.url)).text()).toBe('good day');
  expect(await app.stop()).toEqual({ code: 0, signal: null });
  expect(app.logs().length).toBe(500);
  expect(app.logs().at(-1)).toBe('line 600');
  expect(lines.length).toBe(602);
});

test('an app can be killed', async () => {
  const app = await spawnApp({ app: 'api', root, env: {}, name: 'victim' });
  app.kill();
  expect(await app.exited).toEqual({ code: null, signal: 'SIGKILL' });
});

test('an app that ends before it is ready is an error with its last lines', async () => {
  await expect(spawnApp({ app: 'api', root, env: { BEHAVIOUR: 'fail' } })).rejects.toMatchObject({
    code: 'start_failed',
    message: expect.stringMatching(/api ended with 3 [^]*DATABASE_URL is missing/),
  });
});

test('an app that does not become ready in time is stopped', async () => {
  const starting = spawnApp({ app: 'api', root, env: { BEHAVIOUR: 'silent' }, timeoutMs: 1_000 });
  await expect(starting).rejects.toMatchObject({
    code: 'not_ready',
    message: expect.stringContaining('"msg":"starting"'),
  });
});
