import { z } from 'zod';
import { isStorable, text } from '../parse.ts';

/** How long a customer has to pay where the checkout does not say, ms: 30 minutes. */
const defaultPaymentWindowMs = 30 * 60 * 1000;

const currencies = new Set(Intl.supportedValuesOf('currency'));
const maxMetadataCharacters = 16_384;
const maxMetadataDepth = 16;

const items = z
  .array(
    z.strictObject({
      sku: text(128),
      quantity: z.int().min(1).max(1_000_000),
      unitAmount: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
    }),
  )
  .min(1)
  .max(100)
  .refine((lines) => new Set(lines.map(({ sku }) => sku)).size === lines.length, 'names a SKU twice')
  .refine((lines) => {
    const amount = lines.reduce(
      (sum, { quantity, unitAmount }) => sum + BigInt(quantity) * BigInt(unitAmount),
      0n,
    );
    return amount >= 1n && amount <= BigInt(Number.MAX_SAFE_INTEGER);
  }, 'must amount to at least 1 and at most 2^53 - 1 minor units');

const metadata = z
  .record(z.string(), z.unknown())
  .refine((value) => isStorableJson(value, maxMetadataDepth), {
    error: `must be valid Unicode without NUL characters, nested at most ${maxMetadataDepth} deep`,
    abort: true,
  })
  .refine((value) => JSON.stringify(value).length <= maxMetadataCharacters, {
    error: `must have at most ${maxMetadataCharacters} characters as JSON`,
  });

/** The body of a checkout. */
export const checkoutBody = z.strictObject({
  reference: text(128).nullable().default(null),
  channel: text(64).default('default'),
  paymentMethod: text(64).default('card'),
  currency: z
    .string()
    .refine((code) => currencies.has(code), 'must be an ISO 4217 code in capitals, EUR for example'),
  items,
  paymentWindowMs: z.int().min(1000).max(7_776_000_000).default(defaultPaymentWindowMs),
  metadata: metadata.default({}),
});

function isStorableJson(value: unknown, depth: number): boolean {
  if (typeof value === 'string') return isStorable(value);
  if (typeof value === 'number') return Number.isFinite(value);
  if (typeof value !== 'object' || value === null) return true;
  if (depth === 0) return false;
  return Object.entries(value).every(([key, inner]) => isStorable(key) && isStorableJson(inner, depth - 1));
}
