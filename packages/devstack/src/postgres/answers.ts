import { Client } from 'pg';

/** Whether PostgreSQL, or a pooler before it, answers a query at that URL. Never rejects. */
export async function answersQueries(connectionString: string): Promise<boolean> {
  const client = new Client({ connectionString, connectionTimeoutMillis: 2000 });
  client.on('error', () => {
    // A connection that breaks rejects its query as well.
  });
  try {
    await client.connect();
    await client.query('select 1');
    return true;
  } catch {
    // Not listening yet.
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}
