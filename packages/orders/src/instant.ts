/** SQL that writes an instant as the wire does: ISO 8601, UTC, milliseconds. */
export const isoInstant = (expression: string): string =>
  `to_char((${expression}) at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;
