import { randomUUID } from 'node:crypto';
import { freePort, startSandbox } from '@lapse/devstack';
import { createLog, createMetrics, loadSettings } from '@lapse/runtime';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { PaymentProvider } from './provider.ts';
import { createProviders, providerSettings } from './providers.ts';

const whsec = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;

const stripe = { LAPSE_STRIPE_SECRET_KEY: 'sk_test_4eC39HqLyj', LAPSE_STRIPE_WEBHOOK_SECRET: whsec };
const http = { LAPSE_HTTP_PROVIDER_URL: 'http://127.0.0.1:4000/lapse', LAPSE_HTTP_PROVIDER_SECRET: whsec };
const sandbox = { LAPSE_SANDBOX_PROVIDER_URL: 'http://127.0.0.1:4000', LAPSE_SANDBOX_PROVIDER_SECRET: whsec };

/** The providers of an environment. */
function providersOf(
  env: Record<string, string>,
  onBreaker?: (state: 'open' | 'closed', name: string) => void,
) {
  const log = createLog('test', 'silent');
  const metrics = createMetrics();
  return createProviders(loadSettings(providerSettings, env), {
    log,
    metrics,
    ...(onBreaker === undefined ? {} : { onBreaker }),
  });
}

const attempt = () => ({ attemptId: randomUUID(), orderId: randomUUID(), providerAttemptId: 'att_1' });

test('without settings there is the offline provider alone', () => {
  expect([...providersOf({}).keys()]).toEqual(['offline']);
});

test('each provider whose settings are given is there under its name', () => {
  const providers = providersOf({
    ...stripe,
    ...http,
    ...sandbox,
    LAPSE_STRIPE_API_URL: 'http://127.0.0.1:4000',
  });
  expect([...providers.keys()].toSorted()).toEqual(['http', 'offline', 'sandbox', 'stripe']);
  for (const [name, provider] of providers) expect(provider.name).toBe(name);
});

describe('of two settings that belong together', () => {
  const halves = Object.entries({ ...stripe, ...http, ...sandbox });

  test.each(halves)('%s is not enough', (variable, value) => {
    expect(() => providersOf({ [variable]: value })).toThrow(
      expect.objectContaining({
        code: 'invalid_settings',
        problems: [expect.stringMatching(`^LAPSE_[A-Z_]+ is required where ${variable} is given$`)],
      }),
    );
  });

  test('all that lack the other are named at once', () => {
    const env = Object.fromEntries(halves.filter((_, n) => n % 2 === 0));
    expect(() => providersOf(env)).toThrow(
      expect.objectContaining({
        problems: [
          'LAPSE_STRIPE_WEBHOOK_SECRET is required where LAPSE_STRIPE_SECRET_KEY is given',
          'LAPSE_HTTP_PROVIDER_SECRET is required where LAPSE_HTTP_PROVIDER_URL is given',
          'LAPSE_SANDBOX_PROVIDER_SECRET is required where LAPSE_SANDBOX_PROVIDER_URL is given',
        ],
      }),
    );
  });
});

test('the sandbox is called where the settings say, with their secret and in their time', async () => {
  const service = await startSandbox({ secret: whsec });
  onTestFinished(() => service.stop());
  const env = { LAPSE_SANDBOX_PROVIDER_URL: service.url, LAPSE_SANDBOX_PROVIDER_SECRET: whsec };
  const { attemptId, orderId } = attempt();
  const open = (provider: PaymentProvider | undefined) =>
    provider?.open({
      attemptId,
      orderId,
      amount: 1250,
      currency: 'EUR',
      payBy: null,
      handOff: 'url',
      returnUrl: null,
      description: 'Order 1042',
    });
  expect(await open(providersOf(env).get('sandbox'))).toMatchObject({ outcome: 'opened' });
  expect(service.ledger().attempts).toMatchObject([{ attemptId, orderId }]);
  service.setBehaviour({ slowMs: 3_600_000 });
  const impatient = providersOf({ ...env, LAPSE_PROVIDER_TIMEOUT_MS: '100' });
  expect(await open(impatient.get('sandbox'))).toMatchObject({ reason: 'No answer in 100 ms.' });
});

test('a provider that does not answer is left alone, and whoever listens hears of it', async () => {
  const heard: string[] = [];
  const nowhere = { ...http, LAPSE_HTTP_PROVIDER_URL: `http://127.0.0.1:${await freePort()}` };
  const providers = providersOf(nowhere, (state, name) => heard.push(`${name} ${state}`));
  for (let n = 0; n < 10; n += 1) {
    expect(await providers.get('http')?.close(attempt())).toMatchObject({ verdict: 'unknown' });
  }
  expect(heard).toEqual(['http open']);
  // Nobody is asked.
  expect(await providers.get('offline')?.close(attempt())).toEqual({ verdict: 'closed' });
});
