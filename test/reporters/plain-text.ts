import { stripVTControlCharacters } from 'node:util';

/**
 * Takes colours and cursor movements out of all this process prints, unless a person watches in a terminal. Done at the
 * stream, because `NO_COLOR` is not honoured by every tool and says nothing about what tests print.
 *
 * @returns whether the output is plain from now on
 */
export function printPlainText(): boolean {
  if (process.stdout.isTTY && !process.env['CI']) return false;
  for (const stream of [process.stdout, process.stderr]) {
    const write = stream.write.bind(stream);
    const plainWrite = (chunk: string | Uint8Array, ...rest: []): boolean =>
      write(
        stripVTControlCharacters(typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString()),
        ...rest,
      );
    Object.assign(stream, { write: plainWrite });
  }
  return true;
}
