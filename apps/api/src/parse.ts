import { hash } from 'node:crypto';
import type { IdempotencyKey } from '@lapse/orders';
import { z } from 'zod';
import type { Call } from './answer.ts';
import { Problem, type FieldError } from './problem.ts';

/**
 * Parses what a client sent.
 *
 * @throws Problem `invalid_request`, naming every field that is wrong
 */
export function parse<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const errors = parsed.error.issues.flatMap(fieldErrors);
  const named = errors.map(({ field, message }) => (field === '' ? message : `${field}: ${message}`));
  throw new Problem('invalid_request', named.join('; '), { errors });
}

/**
 * Parses a JSON body.
 *
 * @throws Problem `invalid_request` also where there is none
 */
export function parseBody<Schema extends z.ZodType>(schema: Schema, { body }: Call): z.output<Schema> {
  if (body === undefined) throw noJsonBody();
  return parse(schema, body);
}

/** Parses a JSON body that may be missing; one of another type is not taken for a missing one. */
export function parseOptionalBody<Schema extends z.ZodType>(
  schema: Schema,
  { body, headers }: Call,
): z.output<Schema> {
  const { 'content-length': length = '0', 'transfer-encoding': encoding } = headers;
  if (body === undefined && (length !== '0' || encoding !== undefined)) throw noJsonBody();
  return parse(schema, body ?? {});
}

function noJsonBody(): Problem {
  return new Problem('invalid_request', 'Send a JSON body with `Content-Type: application/json`.');
}

/** Zod reports all unknown fields of an object as one issue of that object; here each is named. */
function fieldErrors(issue: z.core.$ZodIssue): FieldError[] {
  if (issue.code !== 'unrecognized_keys') return [{ field: fieldName(issue.path), message: issue.message }];
  return issue.keys.map((key) => ({
    field: fieldName([...issue.path, key]),
    message: 'is not a known field',
  }));
}

function fieldName(path: readonly PropertyKey[]): string {
  return path.reduce<string>((name, part) => {
    if (typeof part === 'number') return `${name}[${part}]`;
    return name === '' ? String(part) : `${name}.${String(part)}`;
  }, '');
}

/** Whether PostgreSQL can store it: valid Unicode without NUL. */
export function isStorable(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0');
}

/** A text of 1 to `max` characters. */
export const text = (max: number) =>
  z.string().min(1).max(max).refine(isStorable, 'must be valid Unicode without NUL characters');

/** A text of 1 to `max` characters that somebody is to read: more than blanks. */
export const words = (max: number) =>
  z
    .string()
    .regex(/\S/, 'must say something')
    .max(max)
    .refine(isStorable, 'must be valid Unicode without NUL characters');

const orderId = z.uuid();

/** The id of an order in a path; one that is no UUID names no order. */
export function parseOrderId({ params }: Call): string {
  const id = orderId.safeParse(params['id']);
  if (!id.success) throw new Problem('order_not_found', 'Order ids are UUIDs.');
  return id.data.toLowerCase();
}

const uuid = z.uuid();

/** Whether a text that somebody else sent can be one of our ids. */
export function isUuid(id: string | null): id is string {
  return uuid.safeParse(id).success;
}

const idempotencyHeader = z.object({
  'Idempotency-Key': z.string().regex(/^[\x21-\x7E]{1,255}$/, 'must be 1 to 255 visible ASCII characters'),
});

/**
 * Reads the `Idempotency-Key` of a call, if it has one.
 *
 * @param route whose key it is; the same key on another route is another one
 * @param meaning what makes two requests the same: equal in JSON, equal in meaning
 */
export function parseIdempotencyKey(
  { headers }: Call,
  route: string,
  meaning: unknown,
): IdempotencyKey | undefined {
  const header = headers['idempotency-key'];
  if (header === undefined) return undefined;
  const key = parse(idempotencyHeader, { 'Idempotency-Key': header });
  return {
    scope: `api ${route}`,
    key: key['Idempotency-Key'],
    bodyHash: hash('sha256', JSON.stringify(meaning), 'buffer'),
  };
}

/** How many things a page has. */
export const pageLimit = z.coerce.number().int().min(1).max(200).default(50);
