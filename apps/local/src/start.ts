import { resolve } from 'node:path';
import { createClient } from '@lapse/client';
import { isPortFree } from '@lapse/devstack';
import { givenSettings, loadSettings, OperatorError, runMain } from '@lapse/runtime';
import { keptSecrets, startStack, type Stack } from './stack.ts';

/** `pnpm start`: the whole system on this machine, until Ctrl-C. Starting again finds the same orders. */
await runMain(async () => {
  const settings = loadSettings(['dataDir', 'apiPort', 'opsPort', 'workerPort']);
  const given = givenSettings([
    'databaseUrl',
    'redisUrl',
    'apiKey',
    'opsUser',
    'opsPassword',
    'sessionSecret',
  ]);
  const dataDir = resolve(settings.dataDir, 'start');
  const { databaseUrl, redisUrl, ...givenSecrets } = given;
  const secrets = { ...(await keptSecrets(dataDir)), ...givenSecrets };
  await demandFree(settings.apiPort, 'LAPSE_API_PORT');
  await demandFree(settings.opsPort, 'LAPSE_OPS_PORT');

  let isStopAsked = false;
  const stopAsked = new Promise<void>((asked) => {
    const stop = (): void => {
      isStopAsked = true;
      asked();
    };
    process.once('SIGINT', stop).once('SIGTERM', stop);
  });
  console.log('Starting PostgreSQL, Redis, the api, two workers and ops …');
  const stack = await startStack({
    ...settings,
    dataDir,
    databaseUrl,
    redisUrl,
    workerCount: 2,
    secrets,
    say: (sentence) => console.log(sentence),
  }).catch((error: unknown) => {
    // Ctrl-C also reaches `initdb`, which shares this process's group; what had started is stopped by now.
    if (!isStopAsked) throw error;
  });
  if (stack === undefined) {
    console.log('\nStopped before it was up.');
    return;
  }
  await stockSamples(stack.api.url, secrets.apiKey);
  console.log(welcome(stack, secrets));

  await stopAsked;
  console.log('\nStopping …');
  process.once('SIGINT', () => process.exit(1));
  await stack.stop();
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
    const known = await client.stock(sku).catch(() => undefined);
    if (known === undefined) await client.setStock(sku, onHand);
  }
}

function welcome(
  stack: Stack,
  { apiKey, opsUser, opsPassword }: { apiKey: string; opsUser: string; opsPassword: string },
): string {
  const api = stack.api.url;
  const ops = stack.ops.url;
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

Pay it (put its id where ID stands), or watch it lapse:

  curl -s ${api}/v1/orders/ID/payments -H 'Authorization: Bearer ${apiKey}' \\
    -H 'Content-Type: application/json' \\
    -d '{"provider":"shop","providerPaymentId":"pay-1","amount":1250,"currency":"EUR"}'

  curl -s ${api}/v1/orders/ID/timeline -H 'Authorization: Bearer ${apiKey}'
`;
}
