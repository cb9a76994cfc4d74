import { join } from 'node:path';
import { type Environment, machineEnvironment, minimalEnvironment } from './environment.ts';
import { DevstackError } from './errors.ts';
import { waitFor } from './wait-for.ts';
import { type ProcessExit, spawnGuarded } from './watchdog/spawn-guarded.ts';

/** Which app to run, and with what settings. */
export interface AppOptions {
  readonly app: 'api' | 'worker' | 'ops';
  /** The workspace's root: `apps/<app>/src/main.ts` lies there. */
  readonly root: string;
  /** The app's settings, on top of `PATH`, `HOME` and `TMPDIR`: nothing else is inherited. */
  readonly env: Readonly<Record<string, string>>;
  /** What to call it, where several run; default: `app`. */
  readonly name?: string;
  /** Options for Node itself, as in `--inspect`; default: none. */
  readonly nodeArguments?: readonly string[];
  /** Hears each line it writes. */
  readonly onLine?: (line: string) => void;
  /** How long it may take to be ready; default 20,000. */
  readonly timeoutMs?: number;
  /** The machine's variables; default: this process's. */
  readonly machine?: Environment;
}

/** An app that is running and ready. It never outlives this process. */
export interface RunningApp {
  readonly name: string;
  readonly port: number;
  /** `http://127.0.0.1:<port>` */
  readonly url: string;
  readonly pid: number;
  /** Resolves when it has ended; never rejects. */
  readonly exited: Promise<ProcessExit>;
  /** Its last 500 lines. */
  logs(): string[];
  /** SIGTERM, and SIGKILL after `timeoutMs` (default 10,000). */
  stop(options?: { readonly timeoutMs?: number }): Promise<ProcessExit>;
  /** Sends it a signal; default SIGKILL. */
  kill(signal?: NodeJS.Signals): void;
}

/** The variable by which Node keeps what it compiled of a workspace: with it an app starts in half the time. */
export function compileCache(root: string): { readonly NODE_COMPILE_CACHE: string } {
  return { NODE_COMPILE_CACHE: join(root, 'node_modules', '.cache', 'node') };
}

/**
 * Starts one of the apps as a process of its own and waits until it is ready: until it writes a JSON line with
 * `"msg":"ready"` and its `port`.
 *
 * @throws DevstackError `start_failed` with its last lines when it ends before, `not_ready` when the time is over
 */
export async function spawnApp({
  app,
  root,
  env,
  name = app,
  nodeArguments = [],
  onLine,
  timeoutMs = 20_000,
  machine,
}: AppOptions): Promise<RunningApp> {
  let readyPort: number | undefined;
  const child = await spawnGuarded(
    process.execPath,
    [...nodeArguments, join(root, 'apps', app, 'src', 'main.ts')],
    {
      name,
      cwd: root,
      env: {
        ...minimalEnvironment(machineEnvironment(machine)),
        ...compileCache(root),
        ...env,
      },
      onLine(line) {
        readyPort ??= portOfReadyLine(line);
        onLine?.(line);
      },
    },
  );
  const lastLines = (): string => child.logs().slice(-20).join('\n');
  try {
    const port = await waitFor(
      async () => {
        if (readyPort === undefined && !child.isRunning()) {
          const { code, signal } = await child.exited;
          throw new DevstackError(
            'start_failed',
            `${name} ended with ${signal ?? code} at its start:\n${lastLines()}`,
          );
        }
        return readyPort;
      },
      { what: `${name} to be ready`, timeoutMs },
    );
    return {
      name,
      port,
      url: `http://127.0.0.1:${port}`,
      pid: child.pid,
      exited: child.exited,
      logs: () => child.logs(),
      stop: (options) => child.stop(options),
      kill(signal = 'SIGKILL') {
        child.kill(signal);
      },
    };
  } catch (error) {
    await child.stop({ timeoutMs: 2_000 });
    if (error instanceof DevstackError && error.code === 'not_ready') {
      throw new DevstackError('not_ready', `${error.message}; its last lines:\n${lastLines()}`, {
        cause: error,
      });
    }
    throw error;
  }
}

function portOfReadyLine(line: string): number | undefined {
  // Cheap for the thousands of lines that follow the one that is looked for.
  if (!line.includes('"ready"')) return undefined;
  try {
    const entry: unknown = JSON.parse(line);
    if (typeof entry !== 'object' || entry === null || !('msg' in entry) || !('port' in entry))
      return undefined;
    return entry.msg === 'ready' && typeof entry.port === 'number' ? entry.port : undefined;
  } catch {
    return undefined;
  }
}
