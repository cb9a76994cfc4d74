/**
 * What can go wrong with local servers, for callers to switch on:
 *
 * - `port_taken`: something else listens on the wished port
 * - `folder_in_use`: another running server has the data folder
 * - `folder_unusable`: the data folder is not ours to use (not empty, or somebody else's)
 * - `unsupported_platform`: there are no PostgreSQL binaries for this machine
 * - `redis_not_found`: no Redis server is here and none could be fetched
 * - `pgbouncer_not_found`: no PgBouncer is here and none could be fetched
 * - `start_failed`: the program ended before it was ready; the message has its last log lines
 * - `not_ready`: the program is running but was not ready in time
 */
export type DevstackErrorCode =
  | 'port_taken'
  | 'folder_in_use'
  | 'folder_unusable'
  | 'unsupported_platform'
  | 'redis_not_found'
  | 'pgbouncer_not_found'
  | 'start_failed'
  | 'not_ready';

/** A local server or app could not be had. `message` says how to mend it; `code` is stable. */
export class DevstackError extends Error {
  override readonly name: string = 'DevstackError';
  readonly code: DevstackErrorCode;

  constructor(code: DevstackErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** No Redis server is here and none could be fetched. The message names every way to get one, and what was tried. */
export class RedisServerNotFound extends DevstackError {
  override readonly name = 'RedisServerNotFound';
  /** One line for each way that was tried: which, and why it did not work. */
  readonly tried: readonly string[];

  constructor(tried: readonly string[]) {
    super(
      'redis_not_found',
      [
        'There is no Redis server on this machine, and none could be fetched. Any one of these mends it:',
        '  - set REDIS_URL to a Redis or Valkey that is running (start only), as in REDIS_URL=redis://127.0.0.1:6379',
        '  - install redis or valkey: "apt install redis-server", "dnf install valkey", "brew install redis"',
        '  - on Debian and Ubuntu, let apt fetch a private copy: needs apt-get, dpkg and the network, not root',
        '  - start a Docker engine that this user may use ("docker info" must answer)',
        'What was tried:',
        ...tried.map((line) => `  - ${line}`),
      ].join('\n'),
    );
    this.tried = tried;
  }
}

/** The `code` of an operating system's or a database's error, or undefined. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}
