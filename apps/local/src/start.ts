import { resolve } from 'node:path';
import { createClient, LapseError, type LapseClient } from '@lapse/client';
import { isPortFree } from '@lapse/devstack';
import { providerSettings } from '@lapse/payments';
import { givenSettings, givenVariables, loadSettings, OperatorError, runMain } from '@lapse/runtime';
import { keptSecrets } from './secrets.ts';
import { startStack, type Stack } from './stack.ts';
import { stopSignal } from './stop-signal.ts';

/** With the defaults that they have everywhere. */
const commonSettings = ['dataDir', 'apiPort', 'opsPort', 'workerPort', 'policiesFile'] as const;

/** The apps load them; nothing here looks at their values. */
const handedOn = [
  'partitionCount',
  'brakeOrders',
  'brakeShare',
  'retentionDays',
  'trustProxy',
  'freezeAfterSeconds',
  ...providerSettings,
] as const;

/** Where they are not given, this machine has its own: servers that are started, the loopback, warnings only. */
const localSettings = ['databaseUrl', 'redisUrl', 'host', 'logLevel'] as const;

/** Where they are not given, they are drawn. */
const secretSettings = ['apiKey', 'opsUser', 'opsPassword', 'sessionSecret'] as const;

/** `pnpm start`: the whole system on this machine, until Ctrl-C. Starting again finds the same orders. */
await runMain(async () => {
  // In one go, so that every problem is named at once.
  givenSettings([...commonSettings, ...handedOn, ...localSettings, ...secretSettings]);
  const settings = loadSettings(commonSettings);
  const dataDir = resolve(settings.dataDir, 'start');
  const secrets = { ...(await keptSecrets(dataDir)), ...givenSettings(secretSettings) };
  await demandFree(settings.apiPort, 'LAPSE_API_PORT');
  await demandFree(settings.opsPort, 'LAPSE_OPS_PORT');

  const stop = stopSignal();
  console.log('Starting PostgreSQL, Redis, a sandbox payment provider, the api, two workers and ops …');
  const stack = await startStack({
    ...givenSettings(localSettings),
    dataDir,
    apiPort: settings.apiPort,
    opsPort: settings.opsPort,
    workerPort: settings.workerPort,
    workerCount: 2,
    secrets,
    settings: {
      ...givenVariables(handedOn),
      // The apps run in the folder of the workspace.
      ...(settings.policiesFile === undefined ? {} : { LAPSE_POLICIES: resolve(settings.policiesFile) }),
    },
    say: (sentence) => console.log(sentence),
  }).catch((error: unknown) => {
    // Ctrl-C also reaches `initdb`, which shares this process's group; what had started is stopped by now.
    if (stop.exitCode === undefined) throw error;
  });
  if (stack === undefined) {
    console.log('\nStopped before it was up.');
    return;
  }
  try {
    await stockSamples(stack.apiUrl, secrets.apiKey);
    console.log(welcome(stack, secrets));
    await stop.came;
    console.log('\nStopping …');
    process.once('SIGINT', () => process.exit(1));
  } finally {
    await stack.stop();
  }
  console.log(`Stopped. The data stays in ${dataDir}.`);
});

async function demandFree(port: number, variable: string): Promise<void> {
  if (port === 0 || (await isPortFree(port))) return;
  throw new OperatorError(
    `Port ${port} is taken, perhaps by another \`start\`. End it, or set ${variable} to a free port.`,
  );
}

/** Something to sell, on the first start. */
async function stockSamples(baseUrl: string, apiKey: string): Promise<void> {
  const client = createClient({ baseUrl, apiKey });
  for (const [sku, onHand] of [
    ['mug', 100],
    ['poster', 25],
    ['gift-card', null],
  ] as const) {
    if (!(await isKnown(client, sku))) await client.setStock(sku, onHand);
  }
}

/** @throws whatever the api answers but that it does not know the SKU: stock that is there is not to be set again */
async function isKnown(client: LapseClient, sku: string): Promise<boolean> {
  try {
    await client.stock(sku);
    return true;
  } catch (error) {
    if (error instanceof LapseError && error.status === 404) return false;
    throw error;
  }
}

function welcome(
  stack: Stack,
  { apiKey, opsUser, opsPassword }: { apiKey: string; opsUser: string; opsPassword: string },
): string {
  const api = stack.apiUrl;
  const ops = stack.opsUrl;
  const order = JSON.stringify({
    currency: 'EUR',
    items: [{ sku: 'mug', quantity: 1, unitAmount: 1250 }],
    paymentWindowMs: 30_000,
  });
  return `
Lapse is running. Ctrl-C stops it.

  api          ${api}      key  ${apiKey}
  console      ${ops}      user ${opsUser}, password ${opsPassword}
  Bull Board   ${ops}/queues
  lapse        DATABASE_URL=${stack.databaseUrl} REDIS_URL=${stack.redisUrl} npx -y pnpm@12.21.0 lapse

Place an order that must be paid within 30 seconds:

  curl -s ${api}/v1/orders -H 'Authorization: Bearer ${apiKey}' \\
    -H 'Content-Type: application/json' -d '${order}'

Open an attempt to pay it (put its id where ID stands), and then the page at its url in a browser; the sandbox takes no real
money:

  curl -s ${api}/v1/orders/ID/payment-attempts -H 'Authorization: Bearer ${apiKey}' \\
    -H 'Content-Type: application/json' -d '{"provider":"sandbox"}'

Or tell that it was paid elsewhere, or watch it lapse:

  curl -s ${api}/v1/orders/ID/payments -H 'Authorization: Bearer ${apiKey}' \\
    -H 'Content-Type: application/json' \\
    -d '{"provider":"shop","providerPaymentId":"pay-1","amount":1250,"currency":"EUR"}'

  curl -s ${api}/v1/orders/ID/timeline -H 'Authorization: Bearer ${apiKey}'
`;
}
