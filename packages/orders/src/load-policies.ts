import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { OperatorError } from '@lapse/runtime';
import { findJsonFault } from './json-fault.ts';
import { defaultPolicies, type Policies } from './policies.ts';
import { parsePolicies } from './policies-file.ts';

/** Policies that are in force, and what whoever starts a process with them should be told. */
export interface LoadedPolicies {
  readonly policies: Policies;
  readonly warnings: readonly string[];
}

/**
 * Reads the policies of a file; docs/policies.md describes it.
 *
 * @param path from the working directory on; undefined: there is no file, and the default policies hold
 * @throws OperatorError where it cannot be read, is not JSON (with line and column), or says something that it must not
 *   (every problem at once)
 */
export async function loadPolicies(path: string | undefined): Promise<LoadedPolicies> {
  if (path === undefined) return { policies: defaultPolicies, warnings: [] };
  const text = await readText(path);
  const fault = findJsonFault(text);
  if (fault !== undefined)
    throw new OperatorError(
      `${path} is not JSON: line ${fault.line}, column ${fault.column}: ${fault.message}.`,
    );
  const reading = parsePolicies(JSON.parse(text));
  if ('policies' in reading) return reading;
  const { problems } = reading;
  const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
  throw new OperatorError(
    `${path} has ${count}; docs/policies.md describes the file:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`,
  );
}

async function readText(path: string): Promise<string> {
  try {
    // Without a byte order mark, which JSON.parse does not take; with nothing that is no UTF-8.
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path));
  } catch (error) {
    throw new OperatorError(`The policies in ${resolve(path)} cannot be read: ${whyUnread(error)}.`, {
      cause: error,
    });
  }
}

function whyUnread(error: unknown): string {
  switch (error instanceof Error && 'code' in error ? error.code : undefined) {
    case 'ENOENT':
    case 'ENOTDIR':
      return 'there is no such file';
    case 'EISDIR':
      return 'it is a folder';
    case 'EACCES':
    case 'EPERM':
      return 'this user may not read it';
    case 'ERR_ENCODING_INVALID_ENCODED_DATA':
      return 'it is not UTF-8';
    default:
      return String(error);
  }
}
