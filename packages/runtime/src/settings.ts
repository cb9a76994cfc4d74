import { z } from 'zod';
import { parseRedisUrl } from './redis-url.ts';
import { OperatorError } from './run-main.ts';

/**
 * The only reader of the environment. A setting is declared once, here, with its meaning, default and bounds;
 * an app names those it needs and gets them checked, or one error that names every problem at once.
 */
const port = (fallback: number) => z.coerce.number().int().min(0).max(65_535).default(fallback);

/** Where a provider's calls go. It must be nothing but that: what else a URL can hold would not be sent. */
const providerUrl = z
  .url({ protocol: /^https?$/, error: 'must be an http:// or https:// URL' })
  .refine((url) => !/[?#]/.test(url) && URL.parse(url)?.username === '' && URL.parse(url)?.password === '', {
    error: 'must have no user, password, query or fragment',
  });

/** A secret of Standard Webhooks: 24 to 64 bytes in base64. */
const isWebhookSecret = (secret: string): boolean => {
  const encoded = /^whsec_(.+)$/.exec(secret)?.[1] ?? '';
  const bytes = Buffer.from(encoded, 'base64');
  return bytes.toString('base64') === encoded && bytes.length >= 24 && bytes.length <= 64;
};

const webhookSecrets = z.string().refine((secrets) => secrets.split(/[\s,]+/).every(isWebhookSecret), {
  error: 'must be whsec_ and 24 to 64 bytes in base64, or two of them apart by a space or a comma',
});

const catalog = {
  /**
   * PostgreSQL 15 or newer, `postgres://user:password@host:5432/database`, with `?prepare=off` behind a pooler that loses
   * prepared statements. No default.
   */
  databaseUrl: {
    variable: 'DATABASE_URL',
    schema: z
      .url({
        protocol: /^postgres(ql)?$/,
        error: 'must be a postgres:// URL, for example postgres://lapse:secret@127.0.0.1:5432/lapse',
      })
      .refine((url) => ['on', 'off'].includes(URL.parse(url)?.searchParams.get('prepare') ?? 'on'), {
        error: 'must end in ?prepare=off or ?prepare=on, where it says anything about prepare',
      }),
  },
  /** Redis 6.2 or newer, or Valkey: one server, a cluster or Sentinel, in the forms of `parseRedisUrl`. No default. */
  redisUrl: {
    variable: 'REDIS_URL',
    schema: z
      .string()
      .optional()
      .transform((url = '', context) => {
        const parsed = parseRedisUrl(url);
        if ('target' in parsed) return url;
        for (const message of parsed.problems) context.addIssue({ code: 'custom', message });
        return z.NEVER;
      }),
  },
  /** Port of the HTTP API. 0 takes any free one. Default 3000. */
  apiPort: { variable: 'LAPSE_API_PORT', schema: port(3000) },
  /** Port of Bull Board and the console. 0 takes any free one. Default 3001. */
  opsPort: { variable: 'LAPSE_OPS_PORT', schema: port(3001) },
  /** Port of a worker's health and metrics. A taken one moves on to the next free. Default 3002. */
  workerPort: { variable: 'LAPSE_WORKER_PORT', schema: port(3002) },
  /** Address the servers listen on. Default: every address. */
  host: { variable: 'LAPSE_HOST', schema: z.string().min(1).default('0.0.0.0') },
  /**
   * The bootstrap API key, at least 16 characters of ASCII that can be seen: another one could not be sent in a header,
   * or would arrive as two. No default.
   */
  apiKey: {
    variable: 'LAPSE_API_KEY',
    schema: z
      .string('is required')
      .min(16, 'must have at least 16 characters')
      .regex(/^[\x21-\x7e]+$/, 'must be printable ASCII without spaces'),
  },
  /** User name of the ops login. Default `ops`. */
  opsUser: { variable: 'LAPSE_OPS_USER', schema: z.string().min(1).default('ops') },
  /** Password of the ops login, at least 8 characters. No default. */
  opsPassword: {
    variable: 'LAPSE_OPS_PASSWORD',
    schema: z.string('is required').min(8, 'must have at least 8 characters'),
  },
  /** Signs the ops session cookie, at least 32 characters. No default. */
  sessionSecret: {
    variable: 'LAPSE_SESSION_SECRET',
    schema: z.string('is required').min(32, 'must have at least 32 characters'),
  },
  /** Where local servers keep their data. Default `.lapse`. */
  dataDir: { variable: 'LAPSE_DATA_DIR', schema: z.string().min(1).default('.lapse') },
  /** The file of the policies, docs/policies.md. Default: none, and each order has the default policy. */
  policiesFile: { variable: 'LAPSE_POLICIES', schema: z.string().optional() },
  /** Number of BullMQ queues new deadlines are spread over, 1 to 64. Default 1. */
  partitionCount: {
    variable: 'LAPSE_PARTITIONS',
    schema: z.coerce.number().int().min(1).max(64).default(1),
  },
  /** More overdue orders than these make expiry hold by itself; 0: it never does. Default 1000. */
  brakeOrders: {
    variable: 'LAPSE_BRAKE_ORDERS',
    schema: z.coerce.number().int().min(0).max(1_000_000_000).default(1000),
  },
  /** And more than this share of the pending orders, 0 to below 1; 0: their number alone decides. Default 0.05. */
  brakeShare: {
    variable: 'LAPSE_BRAKE_SHARE',
    schema: z.coerce.number().min(0).lt(1).default(0.05),
  },
  /** Days that a settled order is kept, with its payments and events; 0: for ever. Default 400. */
  retentionDays: {
    variable: 'LAPSE_RETENTION_DAYS',
    schema: z.coerce.number().int().min(0).max(10_000).default(400),
  },
  /** Stripe's secret key, `sk_…`, or a restricted one, `rk_…`. Default: no Stripe. Needs the next one as well. */
  stripeSecretKey: {
    variable: 'LAPSE_STRIPE_SECRET_KEY',
    schema: z
      .string()
      .regex(/^[sr]k_[A-Za-z0-9_]{8,}$/, 'must be a secret or restricted key of Stripe: sk_… or rk_…')
      .optional(),
  },
  /** The signing secret of Stripe's webhook endpoint, `whsec_…`. */
  stripeWebhookSecret: {
    variable: 'LAPSE_STRIPE_WEBHOOK_SECRET',
    schema: z
      .string()
      .regex(/^whsec_[A-Za-z0-9+/=_-]{8,}$/, 'must be the signing secret of a webhook endpoint: whsec_…')
      .optional(),
  },
  /** Where Stripe's API is; for a local stand-in. Default: Stripe's own. */
  stripeApiUrl: { variable: 'LAPSE_STRIPE_API_URL', schema: providerUrl.optional() },
  /** A payment service of the shop's own (docs/providers.md), below which its calls are. Needs the next one as well. */
  httpProviderUrl: { variable: 'LAPSE_HTTP_PROVIDER_URL', schema: providerUrl.optional() },
  /** Signs the calls to that service and its webhooks, `whsec_…`; two while it is being changed. */
  httpProviderSecret: { variable: 'LAPSE_HTTP_PROVIDER_SECRET', schema: webhookSecrets.optional() },
  /** A second service that speaks the same protocol, as the provider `sandbox`. Needs the next one as well. */
  sandboxProviderUrl: { variable: 'LAPSE_SANDBOX_PROVIDER_URL', schema: providerUrl.optional() },
  /** Signs the calls to the sandbox and its webhooks, `whsec_…`. */
  sandboxProviderSecret: { variable: 'LAPSE_SANDBOX_PROVIDER_SECRET', schema: webhookSecrets.optional() },
  /** Most calls per second to each provider, from each process, 1 to 10,000. Default 25. */
  providerRate: {
    variable: 'LAPSE_PROVIDER_RATE',
    schema: z.coerce.number().int().min(1).max(10_000).default(25),
  },
  /** How long a provider may take to answer a call, ms, 100 to 60,000. Default 8000. */
  providerTimeoutMs: {
    variable: 'LAPSE_PROVIDER_TIMEOUT_MS',
    schema: z.coerce.number().int().min(100).max(60_000).default(8000),
  },
  /**
   * Seconds that a payment provider must be away until the clock of its orders is stopped by itself, 1 to 9999; `on`: 30;
   * `off`, the default: it never is.
   */
  freezeAfterSeconds: {
    variable: 'LAPSE_FREEZE_ON_PROVIDER_FAILURE',
    schema: z
      .string()
      .regex(/^(off|on|[1-9]\d{0,3})$/, 'must be off, on, or a number of seconds from 1 to 9999')
      .default('off')
      .transform((after) => (after === 'off' ? undefined : after === 'on' ? 30 : Number(after))),
  },
  /** Least level that is logged. Default `info`. */
  logLevel: {
    variable: 'LAPSE_LOG_LEVEL',
    schema: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  },
  /** Number of proxies in front whose `X-Forwarded-*` headers are believed. Default 0: none. */
  trustProxy: { variable: 'LAPSE_TRUST_PROXY', schema: z.coerce.number().int().min(0).max(10).default(0) },
  /** Servers the tests run on. Default `embedded`. */
  testServers: {
    variable: 'LAPSE_TEST_SERVERS',
    schema: z.enum(['embedded', 'containers', 'external']).default('embedded'),
  },
} as const;

type Catalog = typeof catalog;

/** The name of a setting in code, for example `databaseUrl` for `DATABASE_URL`. */
export type SettingName = keyof Catalog;

/** The checked values of some settings. */
export type Settings<Name extends SettingName = SettingName> = {
  readonly [N in Name]: z.output<Catalog[N]['schema']>;
};

/** Some settings are missing or wrong. `problems` has one line for each, naming the variable. */
export class SettingsError extends OperatorError {
  readonly code = 'invalid_settings';
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(`Settings are missing or wrong:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
    this.name = 'SettingsError';
    this.problems = problems;
  }
}

/**
 * Reads and checks the named settings. An empty variable counts as absent, and so does a blank one: as a number it would
 * be 0, which for some settings means "never".
 *
 * @param names the settings this process needs
 * @param env the environment; the process's own by default
 * @throws SettingsError naming every problem, unknown `LAPSE_…` variables included (they are mostly typing errors)
 */
export function loadSettings<Name extends SettingName>(
  names: readonly Name[],
  env: Readonly<Record<string, string | undefined>> = process.env,
): Settings<Name> {
  const problems = unknownVariables(env);
  const values: Record<string, unknown> = {};
  for (const name of names) {
    const { variable, schema } = catalog[name];
    const parsed = schema.safeParse(isBlank(env[variable]) ? undefined : env[variable]);
    if (parsed.success) values[name] = parsed.data;
    else problems.push(`${variable} ${parsed.error.issues.map(({ message }) => message).join(', ')}`);
  }
  if (problems.length > 0) throw new SettingsError(problems);
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- every value came out of its own schema
  return values as Settings<Name>;
}

/**
 * Reads and checks those of the named settings that the environment has; no default stands in for the others.
 *
 * @throws SettingsError as `loadSettings`
 */
export function givenSettings<Name extends SettingName>(
  names: readonly Name[],
  env: Readonly<Record<string, string | undefined>> = process.env,
): Partial<Settings<Name>> {
  return loadSettings(
    names.filter((name) => !isBlank(env[catalog[name].variable])),
    env,
  );
}

/**
 * The variables of those of the named settings that the environment has, as they stand there: to hand on to a process that
 * loads them itself.
 */
export function givenVariables(
  names: readonly SettingName[],
  env: Readonly<Record<string, string | undefined>> = process.env,
): Record<string, string> {
  return Object.fromEntries(
    names.flatMap((name): [string, string][] => {
      const { variable } = catalog[name];
      const value = env[variable];
      return value === undefined || isBlank(value) ? [] : [[variable, value]];
    }),
  );
}

function isBlank(value: string | undefined): boolean {
  return value === undefined || value.trim() === '';
}

function unknownVariables(env: Readonly<Record<string, string | undefined>>): string[] {
  const known = new Set<string>(Object.values(catalog).map(({ variable }) => variable));
  return Object.keys(env)
    .filter((variable) => variable.startsWith('LAPSE_') && !known.has(variable))
    .map((variable) => `${variable} is not a setting; the settings are ${[...known].join(', ')}`);
}
