import { z } from 'zod';
import { isStorable, text } from '../parse.ts';

/**
 * ISO 4217 list one, through amendment 180 (2026: the lev is gone), without the codes that have no minor unit, such as
 * gold: amounts count minor units. Not Intl's list: it keeps ANG, CUC, HRK, SLL and ZWL, which were withdrawn, lacks VED,
 * and is another one in the next version of Node.
 */
const currencies = new Set(
  `AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW
  CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL
  HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA
  MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD
  RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD
  USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG`.split(/\s+/),
);
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

// Not z.record: it would drop a `__proto__` that was sent, and say nothing.
const metadata = z
  .custom<Readonly<Record<string, unknown>>>(isObject, 'must be an object')
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
  // Where it is left out the policy decides.
  paymentWindowMs: z.int().min(1000).max(7_776_000_000).optional(),
  metadata: metadata.default({}),
});

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isStorableJson(value: unknown, depth: number): boolean {
  if (typeof value === 'string') return isStorable(value);
  if (typeof value === 'number') return Number.isFinite(value);
  if (typeof value !== 'object' || value === null) return true;
  if (depth === 0) return false;
  return Object.entries(value).every(([key, inner]) => isStorable(key) && isStorableJson(inner, depth - 1));
}
