import { styleText } from 'node:util';
import { createClient } from '@lapse/client';
import { createTestDatabase } from '@lapse/devstack';
import { createLog, givenSettings, openDatabase, runMain } from '@lapse/runtime';
import { checkInvariants } from '@lapse/test';
import { burst } from './burst.ts';
import { drawSecrets } from './secrets.ts';
import { startStack, type Stack } from './stack.ts';
import { stopSignal, type StopSignal } from './stop-signal.ts';
import { playStories, type Story } from './stories.ts';

/** `pnpm demo`: real servers and processes, real orders over HTTP, what became of each, and whether all is true. */
await runMain(async () => {
  const stop = stopSignal();
  const { databaseUrl: adminUrl, redisUrl } = givenSettings(['databaseUrl', 'redisUrl']);
  say('Starting PostgreSQL, Redis, a sandbox payment provider, the api, two workers and ops …');
  // In the Redis of a real system the demo's workers would remove its jobs: no order of theirs stands behind them.
  if (redisUrl !== undefined) say('REDIS_URL is not used: the demo starts a Redis of its own.');
  // On a server that holds real orders, the demo's stay apart from them.
  const ownDatabase = adminUrl === undefined ? undefined : await createTestDatabase({ adminUrl });
  try {
    await runDemo(ownDatabase?.url, stop);
  } catch (error) {
    // Ctrl-C also reaches `initdb`, which shares this process's group.
    if (stop.exitCode === undefined) throw error;
  } finally {
    await ownDatabase?.drop();
  }
  // Stories that were cut short may still wait for something.
  if (stop.exitCode !== undefined) process.exit(stop.exitCode);
});

async function runDemo(databaseUrl: string | undefined, stop: StopSignal): Promise<void> {
  const secrets = drawSecrets();
  const stack = await startStack({
    ...(databaseUrl === undefined ? {} : { databaseUrl }),
    apiPort: 0,
    opsPort: 0,
    workerPort: 0,
    workerCount: 2,
    secrets,
    say,
  });
  try {
    await Promise.race([stop.came, play(stack, secrets.apiKey, stop)]);
    if (stop.exitCode !== undefined) say('\nStopping …');
  } finally {
    await stack.stop();
  }
}

async function play(stack: Stack, apiKey: string, stop: StopSignal): Promise<void> {
  const { apiUrl: baseUrl, sandbox } = stack;
  if (sandbox === undefined) throw new Error('the demo has a sandbox of its own');
  const client = createClient({ baseUrl, apiKey });
  const stories = await playStories({ client, sandbox }, (story) => {
    if (stop.exitCode === undefined) console.log(storyLine(story));
  });
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
}

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
