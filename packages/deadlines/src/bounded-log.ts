/**
 * Writes the first of many alike log lines at once, later ones at most once per interval. An outage must not fill the
 * disk with one line per order.
 *
 * @param everyMs the interval, ms
 * @param write gets the latest detail, and how many it stands for since the last line
 */
export function atMostEvery<Detail>(
  everyMs: number,
  write: (detail: Detail, count: number) => void,
): (detail: Detail) => void {
  let count = 0;
  let nextAt = 0;
  return (detail) => {
    count += 1;
    const now = performance.now();
    if (now < nextAt) return;
    nextAt = now + everyMs;
    write(detail, count);
    count = 0;
  };
}

/** Interval of log lines about something that keeps failing, ms. */
export const failureLogMs = 10_000;
