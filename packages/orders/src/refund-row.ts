/** The way of a payment back to who paid it. */
export interface Refund {
  /** UUIDv7; the idempotency key at the provider. */
  readonly id: string;
  /**
   * `due`: to be sent. `sent`: the provider took it and will tell how it ends. `confirmed`: it is done. `failed`: the
   * provider refused; the payment is on the work list.
   */
  readonly state: 'due' | 'sent' | 'confirmed' | 'failed';
  readonly providerRefundId: string | null;
  /** Who decided it: `policy`, or a person. */
  readonly actor: string;
  readonly dueAt: Date;
  readonly sentAt: Date | null;
  readonly confirmedAt: Date | null;
  readonly failedAt: Date | null;
  /** How often it was tried, and what came of the last try that did not succeed. */
  readonly tryCount: number;
  readonly lastReason: string | null;
}

/** SQL: the columns of a refund `r`. */
export const refundColumns = `
  r.id, r.state, r.provider_refund_id as "providerRefundId", r.actor, r.due_at as "dueAt", r.sent_at as "sentAt",
  r.confirmed_at as "confirmedAt", r.failed_at as "failedAt", r.try_count as "tryCount", r.last_reason as "lastReason"`;
