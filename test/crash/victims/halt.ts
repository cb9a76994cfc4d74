import { writeSync } from 'node:fs';

import type { Database, Log } from '@lapse/runtime';

/**
 * `before`: the call never begins. `after`: it is done, and its caller never hears of it. `last`: as `after`, and nothing
 * else goes on in the process either, where it would make up for what the caller leaves undone.
 */
export type Moment = (typeof moments)[number];
const moments = ['before', 'after', 'last'] as const;

function tell(line: object): void {
  // Not console.log: what is written must be out of this process before it is killed.
  writeSync(1, `${JSON.stringify(line)}\n`);
}

/** Tells the harness that the process has come to this point, and goes no further. The harness kills it. */
function halt(point: string): Promise<never> {
  tell({ halted: point });
  // The timer keeps the process alive.
  return new Promise(() => setInterval(() => undefined, 60_000));
}

/** As `halt`, in the middle of everything. */
function stop(point: string): void {
  tell({ halted: point });
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
}

/** A port whose call of that name halts the process: handed to real code in place of the port itself. */
export function haltAt<Port extends object>(port: Port, name: string & keyof Port, moment: Moment): Port {
  return new Proxy(port, {
    get(target, property) {
      const member: unknown = Reflect.get(target, property);
      if (property !== name || typeof member !== 'function') return member;
      return async (...args: readonly unknown[]): Promise<unknown> => {
        if (moment !== 'before') await Reflect.apply(member, target, args);
        if (moment === 'last') stop(name);
        return halt(name);
      };
    },
  });
}

/** Makes the connections of a database halt the process at their first COMMIT. */
export function haltAtCommit(database: Database, moment: Moment): void {
  database.on('connect', (client) => {
    const query: unknown = Reflect.get(client, 'query');
    if (typeof query !== 'function') throw new TypeError('a connection without queries');
    Reflect.set(client, 'query', (...args: readonly unknown[]): unknown => {
      const isCommit = Object(args[0]).text === 'commit';
      if (isCommit && moment === 'before') return halt('commit');
      const result: unknown = Reflect.apply(query, client, args);
      return isCommit ? Promise.resolve(result).then(() => halt('commit')) : result;
    });
  });
}

/** A log that halts the process at the first message that contains `text`, in the middle of the call. */
export function haltAtMessage(log: Log, text: string): Log {
  return new Proxy(log, {
    get(target, property) {
      const member: unknown = Reflect.get(target, property);
      if (property !== 'info' && property !== 'debug') return member;
      return (...args: readonly unknown[]): void => {
        if (!args.some((arg) => typeof arg === 'string' && arg.includes(text))) return;
        stop(text);
      };
    },
  });
}

/**
 * The point at which a process is to halt, from its arguments: `disarm before`.
 *
 * @returns undefined where there are none: it does not halt
 * @throws RangeError for any other arguments
 */
export function pointFrom<Call extends string>(
  args: readonly string[],
  calls: readonly Call[],
): { readonly call: Call; readonly moment: Moment } | undefined {
  if (args.length === 0) return undefined;
  const call = calls.find((known) => known === args[0]);
  const moment = moments.find((known) => known === args[1]);
  if (call === undefined || moment === undefined) {
    throw new RangeError(`'${args.join(' ')}' is no point to halt at`);
  }
  return { call, moment };
}
