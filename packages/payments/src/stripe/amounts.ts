/**
 * Decimals that Stripe counts and ISO 4217 does not: ISK and UGX have none any more, and two at Stripe; MGA has two, and
 * none at Stripe. (https://docs.stripe.com/currencies#special-cases)
 */
const extraDecimals: ReadonlyMap<string, number> = new Map([
  ['ISK', 2],
  ['UGX', 2],
  ['MGA', -2],
]);

/** Three decimals, of which the last must be 0 at Stripe. */
const lastDigitIsZero: ReadonlySet<string> = new Set(['BHD', 'JOD', 'KWD', 'OMR', 'TND']);

/** Unusual decimals, and Stripe does not say how it counts them. A guess could be wrong by a factor of ten. */
const uncounted: ReadonlySet<string> = new Set(['CLF', 'IQD', 'LYD', 'UYI', 'UYW']);

/** An amount as Stripe is told of it. */
export interface StripeAmount {
  readonly amount: number;
  /** Small letters. */
  readonly currency: string;
}

/** Says minor units of ISO 4217 in Stripe's units, or why that is not possible. */
export function toStripe(amount: number, currency: string): StripeAmount | { readonly refusal: string } {
  if (uncounted.has(currency)) return { refusal: `It is not known how Stripe counts ${currency}.` };
  if (lastDigitIsZero.has(currency) && amount % 10 !== 0) {
    return { refusal: `Stripe wants the third decimal of ${currency} to be 0, and it is not in ${amount}.` };
  }
  const counted = shift(amount, extraDecimals.get(currency) ?? 0);
  if (counted === undefined) return { refusal: `Stripe cannot count ${amount} minor units of ${currency}.` };
  return { amount: counted, currency: currency.toLowerCase() };
}

/** Says Stripe's units in minor units of ISO 4217; undefined where that is not possible. */
export function fromStripe(amount: number, stripeCurrency: string): number | undefined {
  const currency = stripeCurrency.toUpperCase();
  return uncounted.has(currency) ? undefined : shift(amount, -(extraDecimals.get(currency) ?? 0));
}

/** Moves the decimal point; undefined where the result is no whole number, or too large for one. */
function shift(amount: number, digits: number): number | undefined {
  const shifted = digits < 0 ? amount / 10 ** -digits : amount * 10 ** digits;
  return Number.isSafeInteger(shifted) ? shifted : undefined;
}
