// `lapse migrate`, halting where it logs a text: `node migrate.ts 'schema migrated'`.
import { migrationsDir } from '@lapse/orders';
import { createLog, loadSettings, migrate, runMain } from '@lapse/runtime';

import { haltAtMessage } from './halt.ts';

await runMain(async () => {
  const { databaseUrl } = loadSettings(['databaseUrl']);
  const [text = ''] = process.argv.slice(2);
  await migrate({ url: databaseUrl, dir: migrationsDir, log: haltAtMessage(createLog('cli', 'info'), text) });
});
