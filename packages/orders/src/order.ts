/** The states of an order. From `pending_payment` there is one way out, taken once. */
export type OrderStatus = 'pending_payment' | 'paid' | 'cancelled';

/** Who or what cancelled: the clock, or somebody. */
export type CancelReason = 'payment_timeout' | 'customer' | 'merchant';

/** One line of an order. */
export interface OrderItem {
  readonly sku: string;
  readonly quantity: number;
  /** Minor units of the order's currency. */
  readonly unitAmount: number;
}

/** A customer's commitment to buy, and its payment deadline. */
export interface Order {
  /** UUIDv7. */
  readonly id: string;
  /** The shop's own id, not unique. */
  readonly reference: string | null;
  readonly channel: string;
  readonly paymentMethod: string;
  readonly status: OrderStatus;
  readonly cancelReason: CancelReason | null;
  /** ISO 4217. */
  readonly currency: string;
  /** Minor units, the sum of quantity × unitAmount. */
  readonly amount: number;
  readonly items: readonly OrderItem[];
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly createdAt: Date;
  /** The instant the payment window ends; null: it never does. */
  readonly deadlineAt: Date | null;
  /** Time left to pay, ms, by the database's clock; 0 when overdue or settled, null where there is no deadline. */
  readonly remainingMs: number | null;
  readonly paidAt: Date | null;
  readonly cancelledAt: Date | null;
  /** Deadline and grace: from here on the order may be cancelled; null: never for time. */
  readonly expireAt: Date | null;
  /** When the next payment reminder is due; of a settled order, when it would have been. Null: none is left. */
  readonly remindAt: Date | null;
  /** The queue its deadline is armed in. */
  readonly partition: number;
}

/** A row as `orderColumns` selects it. */
export interface OrderRow {
  readonly id: string;
  readonly reference: string | null;
  readonly channel: string;
  readonly payment_method: string;
  readonly status: OrderStatus;
  readonly cancel_reason: CancelReason | null;
  readonly currency: string;
  readonly amount: number;
  readonly items: readonly OrderItem[];
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly created_at: Date;
  readonly deadline_at: Date | null;
  readonly expire_at: Date | null;
  readonly remind_at: Date | null;
  readonly remaining_ms: number | null;
  readonly paid_at: Date | null;
  readonly cancelled_at: Date | null;
  readonly partition: number;
}

/** The columns of `orders o` that make an OrderRow. */
export const orderColumns = `
  o.id, o.reference, o.channel, o.payment_method, o.status, o.cancel_reason, o.currency, o.amount, o.items,
  o.metadata, o.created_at, nullif(o.deadline_at, 'infinity') as deadline_at,
  nullif(o.expire_at, 'infinity') as expire_at, o.remind_at, o.paid_at, o.cancelled_at, o.partition,
  case
    when o.deadline_at = 'infinity' then null
    when o.status <> 'pending_payment' then 0::bigint
    else greatest(0, ceil(extract(epoch from o.deadline_at - clock_timestamp()) * 1000))::bigint
  end as remaining_ms`;

/** Turns a row into the order it stands for. */
export function toOrder(row: OrderRow): Order {
  return {
    id: row.id,
    reference: row.reference,
    channel: row.channel,
    paymentMethod: row.payment_method,
    status: row.status,
    cancelReason: row.cancel_reason,
    currency: row.currency,
    amount: row.amount,
    items: row.items,
    metadata: row.metadata,
    createdAt: row.created_at,
    deadlineAt: row.deadline_at,
    remainingMs: row.remaining_ms,
    paidAt: row.paid_at,
    cancelledAt: row.cancelled_at,
    expireAt: row.expire_at,
    remindAt: row.remind_at,
    partition: row.partition,
  };
}
