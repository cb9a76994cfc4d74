/** One server of Redis. */
export interface RedisAddress {
  readonly host: string;
  readonly port: number;
}

interface Login {
  readonly username?: string;
  readonly password?: string;
}

/** What `REDIS_URL` names: one server, the nodes of a cluster, or the sentinels that know the master. */
export type RedisTarget =
  | { readonly kind: 'single'; readonly url: string }
  | (Login & {
      readonly kind: 'cluster';
      readonly tls: boolean;
      /** Where to begin: any of these tells of all others. */
      readonly nodes: readonly RedisAddress[];
    })
  | (Login & {
      readonly kind: 'sentinel';
      readonly tls: boolean;
      readonly sentinels: readonly RedisAddress[];
      readonly sentinelLogin: Login;
      /** What the sentinels call the master. */
      readonly masterName: string;
      readonly database: number;
    });

/** A URL that was understood, or all that is wrong with it, a clause for each. */
export type ParsedRedisUrl =
  | { readonly target: RedisTarget }
  | { readonly problems: readonly [string, ...string[]] };

/** Where Redis and Sentinel listen unless a port is named. */
const defaultPorts = { cluster: 6379, sentinel: 26_379 } as const;

const unknownForm =
  'must be a redis:// or rediss:// URL, for example redis://127.0.0.1:6379; ' +
  'for a cluster redis+cluster://host:port,host:port, for Sentinel redis+sentinel://host:port,host:port/master-name';

/**
 * Reads the forms of `REDIS_URL`. With `rediss` instead of `redis` each is over TLS.
 *
 * - `redis://[user:password@]host[:port][/database]`
 * - `redis+cluster://[user:password@]host[:port][,host[:port]…]`
 * - `redis+sentinel://[user:password@]host[:port][,host[:port]…]/master-name[/database]`, and
 *   `?sentinelUsername=…&sentinelPassword=…` where the sentinels ask for a login, too
 */
export function parseRedisUrl(text: string): ParsedRedisUrl {
  const parts = /^(?<scheme>rediss?)(?:\+(?<kind>cluster|sentinel))?:\/\/(?<rest>.*)$/s.exec(text)?.groups;
  if (parts === undefined) return { problems: [unknownForm] };
  const { kind, scheme, rest = '' } = parts;
  if (kind !== 'cluster' && kind !== 'sentinel') return parseSingle(text);
  return parseMany(kind, scheme === 'rediss', rest);
}

function parseSingle(text: string): ParsedRedisUrl {
  const url = URL.parse(text);
  if ((url === null ? text : url.hostname).includes(',')) {
    return {
      problems: ['names several hosts: begin it with redis+cluster:// or redis+sentinel://, or name one'],
    };
  }
  if (url === null) return { problems: [unknownForm] };
  const problems: string[] = [];
  if (url.hostname === '') problems.push('names no host, as in redis://127.0.0.1:6379');
  if (!/^\/?\d*$/.test(url.pathname)) problems.push(notADatabase(url.pathname.slice(1)));
  return orProblems(problems, { kind: 'single', url: text });
}

function parseMany(kind: 'cluster' | 'sentinel', tls: boolean, rest: string): ParsedRedisUrl {
  const problems: string[] = [];
  const [beforeQuery, query] = splitAt(rest, rest.indexOf('?'));
  const [authority, path] = splitAt(beforeQuery, beforeQuery.indexOf('/'));
  // A password may contain an @ by mistake, a host never does.
  const [userInfo, hosts] = authority.includes('@')
    ? splitAt(authority, authority.lastIndexOf('@'))
    : ['', authority];
  const login = parseLogin(userInfo, problems);
  const addresses = parseAddresses(hosts, defaultPorts[kind], problems);
  const options = new URLSearchParams(query);
  const known = kind === 'sentinel' ? ['sentinelUsername', 'sentinelPassword'] : [];
  for (const name of options.keys()) {
    if (!known.includes(name)) problems.push(`has an unknown option '${name}': leave it away`);
  }
  if (kind === 'cluster') {
    if (!/^0?$/.test(path))
      problems.push(`ends in '/${path}', but a cluster has one database only: leave it away`);
    return orProblems(problems, { kind, tls, nodes: addresses, ...login });
  }
  const [masterName, database] = splitAt(path, path.indexOf('/'));
  if (masterName === '')
    problems.push('names no master: end it with what the sentinels call it, as in …/mymaster');
  if (!/^\d*$/.test(database)) problems.push(notADatabase(database));
  const sentinelUsername = options.get('sentinelUsername');
  const sentinelPassword = options.get('sentinelPassword');
  return orProblems(problems, {
    kind,
    tls,
    sentinels: addresses,
    sentinelLogin: {
      ...(sentinelUsername === null ? {} : { username: sentinelUsername }),
      ...(sentinelPassword === null ? {} : { password: sentinelPassword }),
    },
    masterName: decoded(masterName, 'master name', problems),
    database: Number(database),
    ...login,
  });
}

function orProblems(problems: readonly string[], target: RedisTarget): ParsedRedisUrl {
  const [first, ...more] = problems;
  return first === undefined ? { target } : { problems: [first, ...more] };
}

const notADatabase = (database: string): string =>
  `has '${database}' for a database: it is a number, as in redis://127.0.0.1:6379/1`;

/** What stands before and behind the character at `index`; all of it before where there is none. */
function splitAt(text: string, index: number): [string, string] {
  return index === -1 ? [text, ''] : [text.slice(0, index), text.slice(index + 1)];
}

function parseLogin(userInfo: string, problems: string[]): Login {
  const [user, password] = splitAt(userInfo, userInfo.indexOf(':'));
  return {
    ...(user === '' ? {} : { username: decoded(user, 'user name', problems) }),
    ...(password === '' ? {} : { password: decoded(password, 'password', problems) }),
  };
}

function parseAddresses(hosts: string, defaultPort: number, problems: string[]): RedisAddress[] {
  if (hosts === '') {
    problems.push(`names no host, as in 10.0.0.1:${defaultPort},10.0.0.2:${defaultPort}`);
    return [];
  }
  return hosts.split(',').flatMap((address) => {
    const { ipv6, name, port } =
      /^(?:\[(?<ipv6>[\da-f:.]+)\]|(?<name>[\w.-]+))(?::(?<port>\d+))?$/i.exec(address)?.groups ?? {};
    const host = ipv6 ?? name;
    const number = port === undefined ? defaultPort : Number(port);
    if (host !== undefined && number >= 1 && number <= 65_535) return [{ host, port: number }];
    problems.push(`has '${address}' for a host and its port: write host:port, several of them with commas`);
    return [];
  });
}

function decoded(text: string, what: string, problems: string[]): string {
  try {
    return decodeURIComponent(text);
  } catch {
    problems.push(`has a % in its ${what} that begins no escape: write %25 for it`);
    return text;
  }
}
