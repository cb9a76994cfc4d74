import fc from 'fast-check';
import { expect, test } from 'vitest';
import { findJsonFault } from './json-fault.ts';

/** The fault of a text as `line:column message`. */
function faultOf(text: string): string | undefined {
  const fault = findJsonFault(text);
  return fault && `${fault.line}:${fault.column} ${fault.message}`;
}

test.each([
  ['nothing', '', '1:1 the text ends here, expected a value'],
  ['only blanks', '\n  ', '2:3 the text ends here, expected a value'],
  ['a comma too many in an object', '{\n  "a": 1,\n}', '3:1 a comma too many before }'],
  ['a comma too many in a list', '[1, 2,]', '1:7 a comma too many before ]'],
  ['a comma too few', '{\n  "a": 1\n  "b": 2\n}', '3:3 expected a comma or }'],
  ['a bracket of the other kind', '[1}', '1:3 expected a comma or ]'],
  ['an end too early', '{ "a": [1, 2', '1:13 the text ends here, expected a comma or ]'],
  ['an end before the field', '{ "a": 1,', '1:10 the text ends here, expected a field in double quotes'],
  ['a field without quotes', '{ a: 1 }', '1:3 expected a field in double quotes'],
  ['a field without a colon', '{ "a" 1 }', '1:7 expected a colon behind the field'],
  ['single quotes', "{ 'a': 1 }", '1:3 expected a field in double quotes'],
  ['a comment', '{\r\n  // why\r\n  "a": 1 }', '2:3 JSON has no comments, expected a field in double quotes'],
  ['a comment behind', '{} /* why */', '1:4 JSON has no comments, the value is over, nothing may follow'],
  [
    'a text that goes on',
    '["a\nb"]',
    '1:2 a text that does not end in its line, or has an unknown \\ escape',
  ],
  ['an unknown escape', '["\\x41"]', '1:2 a text that does not end in its line, or has an unknown \\ escape'],
  ['a word of another language', '[True]', '1:2 expected a value'],
  ['a number with a zero before it', '[007]', '1:2 expected a value'],
  ['something behind it', '{}\n{}', '2:1 the value is over, nothing may follow'],
  [
    'a field twice',
    '{\n  "a": 1,\n  "b": { "a": 2 },\n  "\\u0061": 3\n}',
    '4:3 "\\u0061" stands twice in one object',
  ],
  ['endless brackets', '['.repeat(100_000), '1:102 nested deeper than 100'],
])('finds %s', (_, text, fault) => {
  expect(faultOf(text)).toBe(fault);
});

test('finds nothing in JSON, whatever it looks like', () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 5 }), fc.constantFrom(undefined, 1, '\t'), (value, indent) => {
      expect(faultOf(JSON.stringify(value, undefined, indent))).toBeUndefined();
    }),
  );
});

/** JSON with a piece of JSON put somewhere, or something left out. */
const damaged = fc
  .record({
    value: fc.jsonValue({ maxDepth: 3 }),
    at: fc.nat(),
    leftOut: fc.nat({ max: 2 }),
    put: fc.oneof(
      fc.constantFrom(
        '',
        ',',
        ':',
        '"',
        '\\',
        '{',
        '}',
        '[',
        ']',
        '0',
        '-',
        '.',
        'e',
        't',
        'null',
        ' ',
        '\n',
        '\u00A0',
      ),
      fc.string({ maxLength: 2 }),
    ),
  })
  .map(({ value, at, leftOut, put }) => {
    const text = JSON.stringify(value);
    const place = at % (text.length + 1);
    return text.slice(0, place) + put + text.slice(place + leftOut);
  });

function isReadByNode(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

test('finds a fault exactly where Node finds one', () => {
  fc.assert(
    fc.property(damaged, (text) => {
      const fault = faultOf(text);
      // Behind a field that stands twice nothing is looked at any more.
      fc.pre(fault === undefined || !fault.endsWith('stands twice in one object'));
      expect(fault === undefined).toBe(isReadByNode(text));
    }),
    { numRuns: 2000 },
  );
});
