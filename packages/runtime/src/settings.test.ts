import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { givenVariables, loadSettings, SettingsError, type SettingName } from './settings.ts';

const databaseUrl = 'postgres://lapse:secret@127.0.0.1:5432/lapse';

/** A secret of Standard Webhooks of so many bytes. */
const whsec = (length: number) => `whsec_${Buffer.alloc(length, 'x').toString('base64')}`;

/** What is wrong with an environment. */
function problemsOf(names: readonly SettingName[], env: Record<string, string>): readonly string[] {
  try {
    loadSettings(names, env);
    return [];
  } catch (error) {
    if (error instanceof SettingsError) return error.problems;
    throw error;
  }
}

test('settings are read under their names, with their defaults', () => {
  expect(
    loadSettings(
      [
        'databaseUrl',
        'apiPort',
        'opsPort',
        'workerPort',
        'partitionCount',
        'logLevel',
        'trustProxy',
        'dataDir',
      ],
      {
        DATABASE_URL: databaseUrl,
        LAPSE_OPS_PORT: '8080',
      },
    ),
  ).toEqual({
    databaseUrl,
    apiPort: 3000,
    opsPort: 8080,
    workerPort: 3002,
    partitionCount: 1,
    logLevel: 'info',
    trustProxy: 0,
    dataDir: '.lapse',
  });
});

const brakeProblems = (orders: string, share: string) =>
  problemsOf(['brakeOrders', 'brakeShare'], { LAPSE_BRAKE_ORDERS: orders, LAPSE_BRAKE_SHARE: share });

test('the brake has bounds that let it go on, or is switched off by 0 orders', () => {
  expect(loadSettings(['brakeOrders', 'brakeShare'], {})).toEqual({ brakeOrders: 1000, brakeShare: 0.05 });
  expect(brakeProblems('0', '0')).toEqual([]);
  expect(brakeProblems('1', '0.99')).toEqual([]);
  // A share of 1 could never be exceeded.
  expect(brakeProblems('-1', '1')).toHaveLength(2);
  expect(brakeProblems('many', '5%')).toHaveLength(2);
});

test('a database URL may say whether statements are prepared, on or off', () => {
  for (const query of ['', '?prepare=off', '?prepare=on', '?sslmode=require&prepare=off']) {
    expect(problemsOf(['databaseUrl'], { DATABASE_URL: databaseUrl + query })).toEqual([]);
  }
  expect(problemsOf(['databaseUrl'], { DATABASE_URL: `${databaseUrl}?prepare=false` })).toEqual([
    'DATABASE_URL must end in ?prepare=off or ?prepare=on, where it says anything about prepare',
  ]);
  expect(problemsOf(['databaseUrl'], { DATABASE_URL: 'nonsense' })).toHaveLength(1);
});

test('policies come from a file, or there is none', () => {
  expect(loadSettings(['policiesFile'], { LAPSE_POLICIES: '' })).toEqual({});
  const env = { LAPSE_POLICIES: '/etc/lapse/policies.json' };
  expect(loadSettings(['policiesFile'], env)).toEqual({ policiesFile: '/etc/lapse/policies.json' });
});

test('settled orders are kept for 400 days, for ever with 0', () => {
  expect(loadSettings(['retentionDays'], {})).toEqual({ retentionDays: 400 });
  expect(loadSettings(['retentionDays'], { LAPSE_RETENTION_DAYS: '0' })).toEqual({ retentionDays: 0 });
  expect(problemsOf(['retentionDays'], { LAPSE_RETENTION_DAYS: '-1' })).toHaveLength(1);
});

test('no provider is needed', () => {
  const names = [
    'stripeSecretKey',
    'httpProviderUrl',
    'httpProviderSecret',
    'providerRate',
    'providerTimeoutMs',
  ] as const;
  expect(loadSettings(names, {})).toEqual({ providerRate: 25, providerTimeoutMs: 8000 });
});

test('a secret that is wrong is not told', () => {
  const env = {
    LAPSE_STRIPE_SECRET_KEY: 'pk_live_hunter2',
    LAPSE_STRIPE_WEBHOOK_SECRET: 'hunter2',
    LAPSE_HTTP_PROVIDER_SECRET: 'whsec_hunter2',
  };
  const problems = problemsOf(['stripeSecretKey', 'stripeWebhookSecret', 'httpProviderSecret'], env);
  expect(problems).toHaveLength(3);
  expect(problems.join()).not.toContain('hunter2');
});

test('only the settings that are asked for are needed', () => {
  expect(loadSettings(['apiPort'], {})).toEqual({ apiPort: 3000 });
  expect(loadSettings([], { DATABASE_URL: 'nonsense' })).toEqual({});
});

test('every problem is named at once', () => {
  expect(
    problemsOf(['databaseUrl', 'redisUrl', 'apiKey', 'opsPassword', 'sessionSecret', 'apiPort', 'logLevel'], {
      REDIS_URL: 'http://127.0.0.1',
      LAPSE_OPS_PASSWORD: 'short',
      LAPSE_API_PORT: 'three thousand',
      LAPSE_LOG_LEVEL: 'loud',
      LAPSE_PROT: '1',
    }),
  ).toEqual([
    expect.stringMatching(/^LAPSE_PROT is not a setting; .*LAPSE_API_PORT/),
    expect.stringMatching(/^DATABASE_URL must be a postgres:\/\/ URL/),
    expect.stringMatching(/^REDIS_URL must be a redis:\/\/ or rediss:\/\/ URL/),
    'LAPSE_API_KEY is required',
    'LAPSE_OPS_PASSWORD must have at least 8 characters',
    'LAPSE_SESSION_SECRET is required',
    expect.stringMatching(/^LAPSE_API_PORT .*number/),
    expect.stringMatching(/^LAPSE_LOG_LEVEL .*"info"/),
  ]);
});

test('the error says all of it in its message, a line for each problem, and has a code', () => {
  expect(() => loadSettings(['databaseUrl', 'apiKey'], {})).toThrow(
    expect.objectContaining({
      code: 'invalid_settings',
      message: expect.stringMatching(
        /^Settings are missing or wrong:\n {2}- DATABASE_URL .*\n {2}- LAPSE_API_KEY .*$/,
      ),
    }),
  );
});

test('an empty or blank variable counts as absent', () => {
  expect(loadSettings(['brakeOrders'], { LAPSE_BRAKE_ORDERS: ' ' })).toEqual({ brakeOrders: 1000 });
  expect(loadSettings(['apiPort', 'host'], { LAPSE_API_PORT: '', LAPSE_HOST: '' })).toEqual({
    apiPort: 3000,
    host: '0.0.0.0',
  });
  expect(problemsOf(['apiKey'], { LAPSE_API_KEY: '' })).toEqual(['LAPSE_API_KEY is required']);
});

test('what is handed on are the variables that are given, as they stand', () => {
  const env = { LAPSE_PARTITIONS: '8', LAPSE_HOST: ' ', LAPSE_BRAKE_SHARE: '0.50', LAPSE_API_KEY: 'secret' };
  expect(givenVariables(['partitionCount', 'host', 'brakeShare', 'trustProxy'], env)).toEqual({
    LAPSE_PARTITIONS: '8',
    LAPSE_BRAKE_SHARE: '0.50',
  });
});

test('an unknown variable of ours is a problem, those of others are not', () => {
  expect(problemsOf([], { LAPSE_PARTITION: '8' })).toEqual([
    expect.stringMatching(/^LAPSE_PARTITION is not a setting/),
  ]);
  expect(problemsOf([], { PATH: '/bin', MY_LAPSE_THING: '1', LAPSE_API_KEY: 'x' })).toEqual([]);
});

test('every optional line of .env.example is a setting as it stands, once its # is gone', async () => {
  const lines = (await readFile(new URL('../../../.env.example', import.meta.url), 'utf8')).split('\n');
  const optional = lines.flatMap((line) => {
    const [, variable, value] = /^# ?([A-Z_]+)=(.*)$/.exec(line) ?? [];
    return variable === undefined || value === undefined ? [] : [{ variable, value }];
  });
  expect(optional.map(({ variable }) => variable)).toContain('LAPSE_PARTITIONS');
  for (const { value } of optional) expect(value).toMatch(/^\S+$/);
  const ours = optional.filter(({ variable }) => variable.startsWith('LAPSE_'));
  const names: readonly SettingName[] = [
    'apiPort',
    'opsPort',
    'opsUser',
    'partitionCount',
    'brakeOrders',
    'brakeShare',
    'retentionDays',
    'providerRate',
    'providerTimeoutMs',
    'freezeAfterSeconds',
    'trustProxy',
    'logLevel',
  ];
  const env = Object.fromEntries(ours.map(({ variable, value }) => [variable, value]));
  expect(loadSettings(names, env)).toEqual(loadSettings(names, {}));
});

test('docker-compose.yml hands every setting on but those of local commands', async () => {
  const compose = await readFile(new URL('../../../docker-compose.yml', import.meta.url), 'utf8');
  // The containers have addresses, ports and folders of their own.
  const local = ['LAPSE_HOST', 'LAPSE_WORKER_PORT', 'LAPSE_DATA_DIR', 'LAPSE_TEST_SERVERS'];
  const [problem = ''] = problemsOf([], { LAPSE_NO_SETTING: '1' });
  const variables = new Set(problem.match(/(?<=[ ,])LAPSE_[A-Z_]+/g));
  expect(variables.size).toBeGreaterThan(20);
  expect([...variables].filter((name) => !compose.includes(`\${${name}:`)).toSorted()).toEqual(
    local.toSorted(),
  );
});

describe('bounds:', () => {
  const goodUrls = ['http://127.0.0.1:4000', 'https://pay.example.com/lapse/'];
  const badUrls = ['pay.example.com', 'ftp://h', 'https://u:p@h/', 'https://h/?key=1', 'https://h/#a'];
  const goodSecrets = [whsec(24), whsec(64), `${whsec(32)} ${whsec(24)}`, `${whsec(32)},${whsec(32)}`];
  const badSecrets = [whsec(23), whsec(65), 'c2VjcmV0', `${whsec(32)}=`, `${whsec(32)} other`, 'whsec_'];
  test.each<[string, SettingName, readonly string[], readonly string[]]>([
    ['LAPSE_API_PORT', 'apiPort', ['0', '65535'], ['-1', '65536', '80.5']],
    ['LAPSE_PARTITIONS', 'partitionCount', ['1', '64'], ['0', '65', 'many']],
    ['LAPSE_TRUST_PROXY', 'trustProxy', ['0', '10'], ['-1', '11', 'true']],
    [
      'LAPSE_API_KEY',
      'apiKey',
      ['x'.repeat(16), '!"#$%&()*+,-./:;<=>?@[]^_`{|}~'],
      [
        'x'.repeat(15),
        'a key with spaces',
        ' a-key-in-spaces ',
        'a-key-with-a\ttab',
        'der-schlüssel-ist-schön',
      ],
    ],
    ['LAPSE_OPS_PASSWORD', 'opsPassword', ['x'.repeat(8)], ['x'.repeat(7)]],
    ['LAPSE_SESSION_SECRET', 'sessionSecret', ['x'.repeat(32)], ['x'.repeat(31)]],
    [
      'LAPSE_STRIPE_SECRET_KEY',
      'stripeSecretKey',
      ['sk_test_4eC39HqLyj', 'rk_live_4eC39HqLyj'],
      ['pk_test_4eC39HqLyj'],
    ],
    [
      'LAPSE_STRIPE_WEBHOOK_SECRET',
      'stripeWebhookSecret',
      [`whsec_${'a1'.repeat(16)}`],
      ['sk_test_4eC39HqLyj', 'whsec_'],
    ],
    ['LAPSE_STRIPE_API_URL', 'stripeApiUrl', goodUrls, badUrls],
    ['LAPSE_HTTP_PROVIDER_URL', 'httpProviderUrl', goodUrls, badUrls],
    ['LAPSE_HTTP_PROVIDER_SECRET', 'httpProviderSecret', goodSecrets, badSecrets],
    ['LAPSE_SANDBOX_PROVIDER_URL', 'sandboxProviderUrl', goodUrls, badUrls],
    ['LAPSE_SANDBOX_PROVIDER_SECRET', 'sandboxProviderSecret', goodSecrets, badSecrets],
    ['LAPSE_PROVIDER_RATE', 'providerRate', ['1', '10000'], ['0', '2.5']],
    ['LAPSE_PROVIDER_TIMEOUT_MS', 'providerTimeoutMs', ['100', '60000'], ['99', '60001']],
    [
      'LAPSE_FREEZE_ON_PROVIDER_FAILURE',
      'freezeAfterSeconds',
      ['off', 'on', '1', '9999'],
      ['0', '10000', 'yes', '1.5'],
    ],
    ['LAPSE_LOG_LEVEL', 'logLevel', ['trace', 'silent'], ['INFO']],
    ['LAPSE_TEST_SERVERS', 'testServers', ['embedded', 'containers', 'external'], ['docker']],
    ['DATABASE_URL', 'databaseUrl', [databaseUrl, 'postgresql://db/x'], ['mysql://db/x', '127.0.0.1:5432']],
    [
      'REDIS_URL',
      'redisUrl',
      ['redis://h', 'rediss://u:p@h:6380/1', 'redis+cluster://a:1,b:2', 'redis+sentinel://a,b/m/1'],
      ['h:6379', 'https://h', 'redis+cluster://a:1/1', 'redis+sentinel://a'],
    ],
  ])('%s', (variable, name, good, bad) => {
    for (const value of good) expect(problemsOf([name], { [variable]: value })).toEqual([]);
    for (const value of bad) {
      expect(problemsOf([name], { [variable]: value })).toEqual([expect.stringMatching(`^${variable} `)]);
    }
  });
});
