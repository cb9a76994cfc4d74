import { randomBytes } from 'node:crypto';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { OperatorError } from '@lapse/runtime';

/** What the apps need and nobody else should know. */
export interface Secrets {
  readonly apiKey: string;
  readonly opsUser: string;
  readonly opsPassword: string;
  readonly sessionSecret: string;
}

/** Draws secrets for a stack that nobody else uses. */
export function drawSecrets(): Secrets {
  return {
    apiKey: `lapse_${randomBytes(18).toString('base64url')}`,
    opsUser: 'ops',
    opsPassword: randomBytes(9).toString('base64url'),
    sessionSecret: randomBytes(32).toString('base64url'),
  };
}

/**
 * The secrets of a data folder: drawn once, then kept in a file that only its owner reads.
 *
 * @throws OperatorError where the folder cannot be used, or the file is not what was written there
 */
export async function keptSecrets(dataDir: string): Promise<Secrets> {
  const file = join(dataDir, 'secrets.json');
  const text = await drawOnce(file).catch((error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error);
    throw new OperatorError(
      `${dataDir} cannot hold the data: ${reason}. Set LAPSE_DATA_DIR to a folder that you may write to.`,
      { cause: error },
    );
  });
  const kept = parseSecrets(text);
  if (kept === undefined)
    throw new OperatorError(`${file} is not what was written there. Remove it to draw new secrets.`);
  return kept;
}

/** The text of the file, with secrets that are drawn where it is missing. */
async function drawOnce(file: string): Promise<string> {
  await mkdir(dirname(file), { recursive: true });
  const whole = `${file}.${randomBytes(4).toString('hex')}`;
  await writeFile(whole, `${JSON.stringify(drawSecrets(), null, 2)}\n`, { mode: 0o600, flush: true });
  try {
    // A write that is cut off would leave half a file, and a rename would replace one that is there.
    await link(whole, file);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
  } finally {
    await rm(whole);
  }
  return readFile(file, 'utf8');
}

function parseSecrets(text: string): Secrets | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isSecrets(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isSecrets(value: unknown): value is Secrets {
  return (
    typeof value === 'object' &&
    value !== null &&
    Object.keys(drawSecrets()).every((name) => typeof Reflect.get(value, name) === 'string')
  );
}
