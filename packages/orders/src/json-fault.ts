/**
 * Where a text is not JSON, or gives a field twice. Node's own errors name no place for the commonest mistakes, a comma
 * too many and a text that ends too early, and of two fields of one name JSON.parse keeps the last and says nothing.
 */
export interface JsonFault {
  /** From 1. */
  readonly line: number;
  /** From 1, in UTF-16 units, as editors count. */
  readonly column: number;
  readonly message: string;
}

const blanks = /[ \t\n\r]*/y;
// Any UTF-16 unit but control characters, quotes and backslashes; or an escape.
const string = /"(?:[ !#-[\]-\uFFFF]|\\(?:["\\/bfnrt]|u[\dA-Fa-f]{4}))*"/y;
const scalar = /(?:-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.+-])/y;

/** Deeper than any file of settings, and shallow enough for the stack. */
const mostDepth = 100;

/** Finds the first fault of a text; undefined where JSON.parse reads all of it. */
export function findJsonFault(text: string): JsonFault | undefined {
  return new Reader(text).document();
}

/** Reads a text from front to back. Each method returns the fault that it found, or undefined. */
class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  document(): JsonFault | undefined {
    const fault = this.#value(0);
    if (fault !== undefined) return fault;
    return this.#next() === '' ? undefined : this.#fault('the value is over, nothing may follow');
  }

  #value(depth: number): JsonFault | undefined {
    if (depth > mostDepth) return this.#fault(`nested deeper than ${mostDepth}`);
    switch (this.#next()) {
      case '{':
        return this.#members('}', depth, new Set());
      case '[':
        return this.#members(']', depth, undefined);
      case '"':
        return this.#take(string) === undefined
          ? this.#fault('a text that does not end in its line, or has an unknown \\ escape')
          : undefined;
      default:
        return this.#take(scalar) === undefined ? this.#fault('expected a value') : undefined;
    }
  }

  /** What stands between brackets: values, and before each its field where `fields` collects them. */
  #members(end: '}' | ']', depth: number, fields: Set<string> | undefined): JsonFault | undefined {
    this.#at += 1;
    if (this.#next() === end) return this.#pass();
    for (;;) {
      const fault = (fields && this.#field(fields)) ?? this.#value(depth + 1);
      if (fault !== undefined) return fault;
      const next = this.#next();
      if (next === end) return this.#pass();
      if (next !== ',') return this.#fault(`expected a comma or ${end}`);
      this.#at += 1;
      if (this.#next() === end) return this.#fault(`a comma too many before ${end}`);
    }
  }

  #field(fields: Set<string>): JsonFault | undefined {
    this.#next();
    const fault = this.#fault('expected a field in double quotes');
    const quoted = this.#take(string);
    if (quoted === undefined) return fault;
    // Two spellings of one field are one: "a" and "\u0061".
    const field = String(JSON.parse(quoted));
    if (fields.has(field)) return { ...fault, message: `${quoted} stands twice in one object` };
    fields.add(field);
    return this.#next() === ':' ? this.#pass() : this.#fault('expected a colon behind the field');
  }

  /** The next character that is not blank; empty at the end. */
  #next(): string {
    this.#take(blanks);
    return this.#text.charAt(this.#at);
  }

  #pass(): undefined {
    this.#at += 1;
  }

  #take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const taken = pattern.exec(this.#text)?.[0];
    this.#at += taken?.length ?? 0;
    return taken;
  }

  #fault(message: string): JsonFault {
    const lines = this.#text.slice(0, this.#at).split(/\r\n|\r|\n/);
    const hint = [
      this.#at >= this.#text.length ? 'the text ends here, ' : '',
      /^\/[/*]/.test(this.#text.slice(this.#at, this.#at + 2)) ? 'JSON has no comments, ' : '',
    ].join('');
    return { line: lines.length, column: (lines.at(-1)?.length ?? 0) + 1, message: hint + message };
  }
}
