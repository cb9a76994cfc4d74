import { describe, expect, test } from 'vitest';
import { parseRedisUrl } from './redis-url.ts';

const problemsOf = (url: string): readonly string[] => {
  const parsed = parseRedisUrl(url);
  return 'problems' in parsed ? parsed.problems : [];
};

test.each([
  'redis://h',
  'redis://127.0.0.1:6379',
  'redis://u:p@h:6380/15',
  'rediss://:p@h',
  'redis://[::1]:6379/',
  'redis://:a,b@h',
])('%s is one server', (url) => {
  expect(parseRedisUrl(url)).toEqual({ target: { kind: 'single', url } });
});

describe('a cluster', () => {
  test('is named by some of its nodes, each on port 6379 unless it names another', () => {
    expect(parseRedisUrl('redis+cluster://a.example:7000,10.0.0.2,[::1]:7002')).toEqual({
      target: {
        kind: 'cluster',
        tls: false,
        nodes: [
          { host: 'a.example', port: 7000 },
          { host: '10.0.0.2', port: 6379 },
          { host: '::1', port: 7002 },
        ],
      },
    });
  });

  test('has one login for all nodes, and TLS for all or none', () => {
    expect(parseRedisUrl('rediss+cluster://lapse:p%40ss%2Fw@a:1,b:2/')).toEqual({
      target: {
        kind: 'cluster',
        tls: true,
        username: 'lapse',
        password: 'p@ss/w',
        nodes: [
          { host: 'a', port: 1 },
          { host: 'b', port: 2 },
        ],
      },
    });
    expect(parseRedisUrl('redis+cluster://:secret@a')).toMatchObject({ target: { password: 'secret' } });
  });
});

describe('Sentinel', () => {
  test('is named by some sentinels, each on port 26379 unless it names another, and the name of the master', () => {
    expect(parseRedisUrl('redis+sentinel://a,b:5000/mymaster')).toEqual({
      target: {
        kind: 'sentinel',
        tls: false,
        sentinels: [
          { host: 'a', port: 26_379 },
          { host: 'b', port: 5000 },
        ],
        sentinelLogin: {},
        masterName: 'mymaster',
        database: 0,
      },
    });
  });

  test('has a login for Redis, another for the sentinels, and a database', () => {
    expect(
      parseRedisUrl('rediss+sentinel://u:p@a/my%20master/3?sentinelUsername=s&sentinelPassword=x%26y'),
    ).toEqual({
      target: {
        kind: 'sentinel',
        tls: true,
        username: 'u',
        password: 'p',
        sentinels: [{ host: 'a', port: 26_379 }],
        sentinelLogin: { username: 's', password: 'x&y' },
        masterName: 'my master',
        database: 3,
      },
    });
  });
});

test.each<[string, ...RegExp[]]>([
  ['', /^must be a redis:\/\/ or rediss:\/\/ URL/],
  ['h:6379', /^must be a redis:/],
  ['https://h', /^must be a redis:/],
  ['redis+other://h', /redis\+cluster:\/\/host:port,host:port/],
  ['redis://h:port', /^must be a redis:/],
  ['redis://', /names no host/],
  ['redis://h/first', /has 'first' for a database: it is a number/],
  ['redis://a:1,b:2', /names several hosts: begin it with redis\+cluster/],
  ['redis+cluster://', /names no host, as in 10\.0\.0\.1:6379/],
  ['redis+cluster://a:1/2', /ends in '\/2', but a cluster has one database only/],
  ['redis+cluster://a:1,,b', /has '' for a host/],
  ['redis+cluster://a:0,b:70000', /has 'a:0' for a host/, /has 'b:70000'/],
  ['redis+cluster://u:100%@a:1', /has a % in its password that begins no escape: write %25/],
  ['redis+cluster://a:x/1?b=c', /'a:x'/, /unknown option 'b'/, /one database only/],
  ['redis+sentinel://a', /names no master: end it with what the sentinels call it/],
  ['redis+sentinel:///m', /names no host, as in 10\.0\.0\.1:26379/],
  ['redis+sentinel://a/m/x?password=y', /unknown option 'password'/, /has 'x' for a database/],
])('%j names every problem and how to mend it', (url, ...expected) => {
  const problems = problemsOf(url);
  expect(problems).toHaveLength(expected.length);
  for (const [n, words] of expected.entries()) expect(problems[n]).toMatch(words);
});
