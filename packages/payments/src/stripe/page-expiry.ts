/** Stripe lets a page live between 30 minutes and 24 hours from the moment it is opened; see below, ms. */
const shortestMs = 30 * 60_000;
const longestMs = 24 * 60 * 60_000;

/**
 * The call comes later than the attempt was made, a second try later still, and Stripe's clock is another one. So many ms
 * of both limits are left to that.
 */
const slackMs = 5 * 60_000;

/**
 * When Stripe closes a page by itself, seconds since 1970: when the customer's time is over, as far as Stripe allows.
 *
 * - A deadline in less than 35 minutes: later than that, and Lapse closes the page at the deadline, as it always does.
 * - A deadline in more than 24 hours, or none: 5 minutes before 24 hours. The shop opens another attempt then.
 *
 * It comes from the attempt alone, the time of its UUIDv7 included: under one idempotency key Stripe takes no other
 * parameters. An attempt whose first call never arrived is refused when it is opened after its time, as it should be.
 *
 * @throws RangeError where the id is no UUIDv7
 */
export function pageExpiresAt(attemptId: string, payBy: Date | null): number {
  const madeAt = timeOf(attemptId);
  const latest = madeAt + longestMs - slackMs;
  const wished = payBy?.getTime() ?? latest;
  return Math.ceil(Math.min(latest, Math.max(madeAt + shortestMs + slackMs, wished)) / 1000);
}

/** The ms since 1970 that a UUIDv7 begins with. */
function timeOf(uuid: string): number {
  const [, high, low] = /^([\da-f]{8})-([\da-f]{4})-7/i.exec(uuid) ?? [];
  if (high === undefined || low === undefined) throw new RangeError(`${uuid} is no UUIDv7`);
  return Number.parseInt(high + low, 16);
}
