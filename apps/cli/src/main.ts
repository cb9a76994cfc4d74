import { userInfo } from 'node:os';
import { createDeadlines, type Deadlines } from '@lapse/deadlines';
import { createOrders, migrationsDir, type FreezeScope, type Orders } from '@lapse/orders';
import {
  createLog,
  createMetrics,
  databaseService,
  loadSettings,
  migrate,
  openDatabase,
  runMain,
} from '@lapse/runtime';
import { Command } from 'commander';
import { showDrift } from './drift.ts';
import { freezeClock, listFreezes, thawClock } from './freezes.ts';
import { checkPolicies, explainPolicies } from './policies.ts';
import { rebuildDeadlines } from './rebuild.ts';
import { reconcile } from './reconcile.ts';
import { resumeExpiry } from './resume.ts';
import { showOrder } from './show-order.ts';

/** Who acts, for the events. */
const actor = `cli:${userName()}`;

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // A container may run as a number that has no name.
    return String(process.getuid?.() ?? 'unknown');
  }
}

/** Opens the orders for one command. */
async function withOrders(work: (orders: Orders) => Promise<void>): Promise<void> {
  const { databaseUrl, logLevel } = loadSettings(['databaseUrl', 'logLevel']);
  const database = openDatabase({ url: databaseUrl, app: 'cli', log: createLog('cli', logLevel), max: 2 });
  const service = databaseService({ database, url: databaseUrl, dir: migrationsDir });
  try {
    await service.start();
    await work(createOrders({ database }));
  } finally {
    await service.stop();
  }
}

/** Opens the orders and the timer for one command. */
async function withDeadlines(work: (orders: Orders, deadlines: Deadlines) => Promise<void>): Promise<void> {
  // With the database's, so that all that is missing is named at once.
  const { redisUrl, logLevel } = loadSettings(['databaseUrl', 'redisUrl', 'logLevel']);
  const log = createLog('cli', logLevel);
  const deadlines = createDeadlines({ redisUrl, log, metrics: createMetrics() });
  try {
    await withOrders((orders) => work(orders, deadlines));
  } finally {
    await deadlines.stop();
  }
}

const program = new Command('lapse').description(
  'Payment deadlines for orders. Reads DATABASE_URL, and where it needs it REDIS_URL, from the environment.',
);

program
  .command('migrate')
  .description('bring the schema up to date; safe to run from several places at once')
  .action(async () => {
    const { databaseUrl, logLevel } = loadSettings(['databaseUrl', 'logLevel']);
    const applied = await migrate({ url: databaseUrl, dir: migrationsDir, log: createLog('cli', logLevel) });
    console.log(applied.length === 0 ? 'The schema is up to date.' : `Applied ${applied.join(', ')}.`);
  });

program
  .command('order')
  .description('show an order and its story')
  .argument('<id>', "the order's id")
  .action((id: string) => withOrders((orders) => showOrder(orders, id)));

program
  .command('freeze')
  .description('stop the clock of pending orders: none in scope is cancelled for time until the thaw')
  .requiredOption('--reason <text>', 'why, for those who find it')
  .option('--channel <name>', 'only orders of this channel')
  .option('--payment-method <name>', 'only orders with this payment method')
  .option('--provider <name>', 'only orders that had a payment attempt with this provider')
  .action(({ reason, ...scope }: { reason: string } & FreezeScope) =>
    withOrders((orders) => freezeClock(orders, { reason, scope, actor })),
  );

program
  .command('thaw')
  .description('let the clock go on; every deadline moves by the time it stood still')
  .argument('[id]', 'the freeze to end; default: all that are frozen')
  .action((id: string | undefined) => withOrders((orders) => thawClock(orders, { id, actor })));

program
  .command('freezes')
  .description('list freezes and brakes, newest first')
  .action(() => withOrders(listFreezes));

program
  .command('resume')
  .description('release the brake: expiry goes on that held by itself because too much was overdue')
  .option('--extend <duration>', 'first give every overdue order so much time from now: 90s, 15m, 2h, 1d')
  .action(({ extend }: { extend?: string }) => withOrders((orders) => resumeExpiry(orders, extend, actor)));

program
  .command('rebuild')
  .description('arm the job of every pending deadline again')
  .action(() => withOrders((orders) => rebuildDeadlines(orders, actor)));

program
  .command('reconcile')
  .description('ask a payment provider about every open attempt and refund, after its webhooks were lost')
  .requiredOption('--provider <name>', 'which, stripe for example')
  .option(
    '--since <duration>',
    'only attempts opened, and refunds sent, within: 90s, 30m, 2h, 1d; default: all',
  )
  .action(({ provider, since }: { provider: string; since?: string }) =>
    withOrders((orders) => reconcile(orders, provider, since)),
  );

program
  .command('drift')
  .description('compare pending orders with armed jobs; changes nothing')
  .action(() => withDeadlines(showDrift));

const policies = program
  .command('policies')
  .description('how long orders may stay unpaid, by channel and payment method; docs/policies.md');

policies
  .command('check')
  .description('check a policies file, every problem named at once, and list its rules')
  .argument('<file>', 'the file that LAPSE_POLICIES is to name')
  .action((file: string) => checkPolicies(file));

policies
  .command('explain')
  .description('say which policy an order gets, and why')
  .option('--channel <name>', "the order's channel", 'default')
  .option('--payment-method <name>', "the order's payment method", 'card')
  .option('--file <path>', 'the policies file; default: that of LAPSE_POLICIES')
  .action(({ file, ...kind }: { file?: string; channel: string; paymentMethod: string }) =>
    explainPolicies(file ?? loadSettings(['policiesFile']).policiesFile, kind),
  );

// As process 1 of a container Node ignores a signal that it has no handler for.
process.once('SIGINT', () => process.exit(130));
process.once('SIGTERM', () => process.exit(143));

await runMain(async () => {
  await program.parseAsync();
});
