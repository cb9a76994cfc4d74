import { pino, type Logger } from 'pino';

/** A structured logger: `log.info({ orderId }, 'order expired')`. */
export type Log = Logger;

/**
 * Creates the process's logger: one JSON object a line on stdout, times in ISO 8601. Lines are written synchronously: the
 * last one before a process ends is the one that says why, and pino's own default lost or reordered it there.
 *
 * @param app name of the process, in every line
 * @param level least level that is written
 */
export function createLog(app: string, level: string): Log {
  return pino(
    {
      level,
      base: { app, pid: process.pid },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { err: describeError },
    },
    pino.destination({ dest: 1, sync: true }),
  );
}

/** What is logged of an error. Never its other properties: pg hangs the whole client there, password included. */
function describeError(error: unknown): object {
  if (!(error instanceof Error)) return { message: String(error) };
  return {
    type: error.name,
    message: error.message,
    ...('code' in error ? { code: error.code } : {}),
    stack: error.stack,
    ...(error.cause === undefined ? {} : { cause: describeError(error.cause) }),
  };
}
