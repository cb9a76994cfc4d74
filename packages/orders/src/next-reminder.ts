/**
 * SQL: when the next reminder of the order `o` is due, the first that still lies ahead; null where none does. Reads
 * `reminders` of `o`.
 *
 * @param deadline SQL: the deadline it counts from
 * @param now SQL: the instant it must lie behind
 */
export const nextReminder = (deadline: string, now: string): string => `(
          select ${deadline} - max(before_ms) * interval '1 ms' from unnest(o.reminders) as before_ms
          where ${deadline} - before_ms * interval '1 ms' > ${now}
        )`;
