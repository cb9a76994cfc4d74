import { Client } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { query, scratchFolder } from './fixtures/scratch.ts';
import { type RunningServer, startPostgres } from './postgres/start.ts';
import { createTestDatabase } from './test-database.ts';

let server: RunningServer;
beforeAll(async () => {
  server = await startPostgres({ dataDir: await scratchFolder() });
});
afterAll(() => server.stop());

test('a database of its own is made, and dropped under a connection that is still open', async () => {
  const database = await createTestDatabase({ adminUrl: server.url });
  expect(await query(database.url, 'select current_database() as name')).toEqual([{ name: database.name }]);
  const open = new Client({ connectionString: database.url });
  const broken = new Promise((resolve) => open.on('error', resolve));
  await open.connect();
  await database.drop();
  await broken;
  await database.drop();
  expect(await query(server.url, `select from pg_database where datname = '${database.name}'`)).toEqual([]);
});

test('many copies of a template are made at once', async () => {
  const template = await createTestDatabase({ adminUrl: server.url, name: 'a "strange" template' });
  await query(template.url, 'create table kept as select 42 as answer');
  const copies = await Promise.all(
    Array.from({ length: 8 }, () => createTestDatabase({ adminUrl: server.url, template: template.name })),
  );
  for (const copy of copies)
    expect(await query(copy.url, 'select answer from kept')).toEqual([{ answer: 42 }]);
  await Promise.all([...copies, template].map((database) => database.drop()));
});

test('a template that somebody is connected to is waited for', async () => {
  const template = await createTestDatabase({ adminUrl: server.url });
  const user = new Client({ connectionString: template.url });
  await user.connect();
  let isFree = false;
  const making = createTestDatabase({ adminUrl: server.url, template: template.name }).then((copy) => {
    expect(isFree).toBe(true);
    return copy;
  });
  // Longer than PostgreSQL itself waits.
  await user.query('select pg_sleep(5.5)');
  isFree = true;
  await user.end();
  await Promise.all([(await making).drop(), template.drop()]);
});

test('a name that is taken is an error', async () => {
  const database = await createTestDatabase({ adminUrl: server.url });
  await expect(createTestDatabase({ adminUrl: server.url, name: database.name })).rejects.toMatchObject({
    code: '42P04',
  });
  await database.drop();
});
