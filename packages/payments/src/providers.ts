import { SettingsError, type Log, type Metrics, type SettingName, type Settings } from '@lapse/runtime';
import { guarded, type GuardOptions } from './guard.ts';
import { httpProvider } from './http-provider.ts';
import { offlineProvider } from './offline.ts';
import type { PaymentProvider } from './provider.ts';
import { stripeProvider } from './stripe.ts';

/** Calls that are under way to one provider from one process, at most: no slow provider fills the process with them. */
const concurrency = 20;

/** So many calls in a row that were not answered open the circuit, and after `resetMs` one is tried again. */
const breaker = { failures: 10, resetMs: 10_000 };

/** The settings that name the providers: what a process loads that calls `createProviders`. */
export const providerSettings = [
  'stripeSecretKey',
  'stripeWebhookSecret',
  'stripeApiUrl',
  'httpProviderUrl',
  'httpProviderSecret',
  'sandboxProviderUrl',
  'sandboxProviderSecret',
  'providerRate',
  'providerTimeoutMs',
] as const satisfies readonly SettingName[];

/** Their values. */
export type ProviderSettings = Settings<(typeof providerSettings)[number]>;

/**
 * The providers that the settings name, by their names: `offline` always; `stripe`, `http` and `sandbox` where both of
 * their settings are given. All but `offline` are called within limits of rate and concurrency, and behind a circuit
 * breaker.
 *
 * @throws SettingsError where of two settings that belong together only one is given
 */
export function createProviders(
  settings: ProviderSettings,
  {
    log,
    metrics,
    onBreaker,
  }: {
    readonly log: Log;
    readonly metrics: Metrics;
    /** Hears when a provider's circuit opens or closes. */
    readonly onBreaker?: GuardOptions['onBreaker'];
  },
): ReadonlyMap<string, PaymentProvider> {
  const { stripeApiUrl, providerTimeoutMs: timeoutMs, providerRate: perSecond } = settings;
  const problems: string[] = [];
  /** Two settings that belong together; undefined where neither is given. */
  const pair = (one: Given, other: Given): readonly [string, string] | undefined => {
    if (one.value !== undefined && other.value !== undefined) return [one.value, other.value];
    if (one.value === other.value) return undefined;
    const [given, missing] = one.value === undefined ? [other, one] : [one, other];
    problems.push(`${missing.variable} is required where ${given.variable} is given`);
    return undefined;
  };

  const providers: PaymentProvider[] = [];
  const stripe = pair(
    { variable: 'LAPSE_STRIPE_SECRET_KEY', value: settings.stripeSecretKey },
    { variable: 'LAPSE_STRIPE_WEBHOOK_SECRET', value: settings.stripeWebhookSecret },
  );
  if (stripe !== undefined) {
    const [secretKey, webhookSecret] = stripe;
    const apiUrl = stripeApiUrl === undefined ? {} : { apiUrl: stripeApiUrl };
    providers.push(stripeProvider({ secretKey, webhookSecret, timeoutMs, log, ...apiUrl }));
  }
  const http = pair(
    { variable: 'LAPSE_HTTP_PROVIDER_URL', value: settings.httpProviderUrl },
    { variable: 'LAPSE_HTTP_PROVIDER_SECRET', value: settings.httpProviderSecret },
  );
  if (http !== undefined) {
    const [url, secret] = http;
    providers.push(httpProvider({ name: 'http', url, secret, timeoutMs, log }));
  }
  const sandbox = pair(
    { variable: 'LAPSE_SANDBOX_PROVIDER_URL', value: settings.sandboxProviderUrl },
    { variable: 'LAPSE_SANDBOX_PROVIDER_SECRET', value: settings.sandboxProviderSecret },
  );
  if (sandbox !== undefined) {
    const [url, secret] = sandbox;
    providers.push(httpProvider({ name: 'sandbox', url, secret, timeoutMs, log }));
  }
  if (problems.length > 0) throw new SettingsError(problems);

  const limits = {
    perSecond,
    concurrency,
    breaker,
    log,
    metrics,
    ...(onBreaker === undefined ? {} : { onBreaker }),
  };
  const guardedOnes = providers.map((provider) => guarded(provider, limits));
  return new Map([offlineProvider(), ...guardedOnes].map((provider) => [provider.name, provider]));
}

/** A setting's variable, and its value where it is given. */
interface Given {
  readonly variable: string;
  readonly value: string | undefined;
}
