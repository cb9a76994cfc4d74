import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, escapeIdentifier } from 'pg';
import { codeOf } from './errors.ts';

/** Which database to make. */
export interface TestDatabaseOptions {
  /** Any database of the server, with a user that may create others. */
  readonly adminUrl: string;
  /** The database to copy, schema and rows; default: PostgreSQL's own empty template. */
  readonly template?: string;
  /** Default: `test_` and twelve random digits. */
  readonly name?: string;
}

/** A database of one's own. */
export interface TestDatabase {
  readonly url: string;
  readonly name: string;
  /** Removes it, ending whoever is still connected. Again: no harm. */
  drop(): Promise<void>;
}

// PostgreSQL copies no template that somebody is connected to; it waits 5 s itself before it says so.
const objectInUse = '55006';
const maxAttempts = 6;

/**
 * Creates a database, as a copy of `template` where given. While others are connected to the template it waits, up to
 * about 30 s.
 *
 * @throws the database's error: 42P04 when `name` exists, 3D000 when `template` does not, 55006 when the wait was in vain
 */
export async function createTestDatabase({
  adminUrl,
  template,
  name = `test_${randomBytes(6).toString('hex')}`,
}: TestDatabaseOptions): Promise<TestDatabase> {
  const from = template === undefined ? '' : ` template ${escapeIdentifier(template)}`;
  for (let attempt = 1; ; attempt += 1) {
    try {
      await execute(adminUrl, `create database ${escapeIdentifier(name)}${from}`);
      break;
    } catch (error) {
      if (codeOf(error) !== objectInUse || attempt === maxAttempts) throw error;
      await sleep(50 * attempt);
    }
  }
  const url = new URL(adminUrl);
  url.pathname = `/${encodeURIComponent(name)}`;
  return {
    url: url.href,
    name,
    drop: () => execute(adminUrl, `drop database if exists ${escapeIdentifier(name)} with (force)`),
  };
}

async function execute(connectionString: string, statement: string): Promise<void> {
  const client = new Client({ connectionString });
  try {
    await client.connect();
    await client.query(statement);
  } finally {
    await client.end();
  }
}
