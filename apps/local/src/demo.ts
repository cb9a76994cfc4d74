import { styleText } from 'node:util';
import { createClient } from '@lapse/client';
import { createTestDatabase } from '@lapse/devstack';
import { createLog, givenSettings, openDatabase, runMain } from '@lapse/runtime';
import { checkInvariants } from '@lapse/test';
import { burst } from './burst.ts';
import { drawSecrets, startStack } from './stack.ts';
import { playStories, type Story } from './stories.ts';

/** `pnpm demo`: real servers and processes, real orders over HTTP, what became of each, and whether all is true. */
await runMain(async () => {
  say('Starting PostgreSQL, Redis, the api, two workers and ops …');
  const { databaseUrl: adminUrl, redisUrl } = givenSettings(['databaseUrl', 'redisUrl']);
  // On a server that holds real orders, the demo's stay apart from them.
  const ownDatabase = adminUrl === undefined ? undefined : await createTestDatabase({ adminUrl });
  const secrets = drawSecrets();
  const stack = await startStack({
    databaseUrl: ownDatabase?.url,
    redisUrl,
    apiPort: 0,
    opsPort: 0,
    workerPort: 0,
    workerCount: 2,
    secrets,
    say,
  });
  try {
    const client = createClient({ baseUrl: stack.api.url, apiKey: secrets.apiKey });
    const stories = await playStories(client, (story) => console.log(storyLine(story)));
    const lateness = await burst(client, say);
    const broken = await reportInvariants(stack.databaseUrl);
    const wrong = stories.filter(({ asExpected }) => !asExpected).length + (lateness.asExpected ? 0 : 1);
    if (wrong + broken > 0) {
      console.log(
        styleText(
          'red',
          `\n${wrong} stories ended otherwise than they should, ${broken} invariants are broken.`,
        ),
      );
      process.exitCode = 1;
    } else {
      console.log(styleText('green', '\nEvery order ended as it should.'));
    }
  } finally {
    await stack.stop();
    await ownDatabase?.drop();
  }
});

function say(sentence: string): void {
  console.log(styleText('dim', sentence));
}

function storyLine({ title, happened, latenessMs, asExpected }: Story): string {
  const mark = asExpected ? styleText('green', '✓') : styleText('red', '✗');
  const late = latenessMs === undefined ? '' : styleText('cyan', `${latenessMs} ms late`.padStart(11));
  return `${mark} ${title.padEnd(62)} ${happened.padEnd(30)} ${late}`;
}

/** Prints the invariants; answers how many are broken. */
async function reportInvariants(databaseUrl: string): Promise<number> {
  const database = openDatabase({ url: databaseUrl, app: 'demo', log: createLog('demo', 'warn') });
  try {
    const results = await checkInvariants(database);
    console.log('\nInvariants');
    for (const { name, breachCount, examples } of results) {
      const mark = breachCount === 0 ? styleText('green', '✓') : styleText('red', `✗ ${breachCount}`);
      console.log(`${mark} ${name}`);
      for (const example of examples) console.log(`    ${example}`);
    }
    return results.filter(({ breachCount }) => breachCount > 0).length;
  } finally {
    await database.end();
  }
}
