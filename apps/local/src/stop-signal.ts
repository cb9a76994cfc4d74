/** SIGINT or SIGTERM, the first of them; a second one of its kind ends the process at once, as without a listener. */
export interface StopSignal {
  /** Resolves when it comes. */
  readonly came: Promise<void>;
  /** What a shell says of a process that it ended, 130 or 143; undefined until it comes. */
  readonly exitCode: number | undefined;
}

/** Listens for the signal to stop. */
export function stopSignal(): StopSignal {
  const { promise, resolve } = Promise.withResolvers<void>();
  let exitCode: number | undefined;
  const stop = (code: number): void => {
    exitCode ??= code;
    resolve();
  };
  process.once('SIGINT', () => stop(130)).once('SIGTERM', () => stop(143));
  return {
    came: promise,
    get exitCode() {
      return exitCode;
    },
  };
}
