-- Up Migration

-- What can be sold. `held` is the sum of the quantities that pending orders hold.
create table stock (
  sku text primary key,
  on_hand bigint,
  held bigint not null default 0,
  updated_at timestamptz(3) not null,
  constraint stock_sku_length check (char_length(sku) between 1 and 128),
  constraint stock_on_hand_range check (on_hand between 0 and 9007199254740991),
  constraint stock_held_range check (held between 0 and 9007199254740991),
  -- A null on_hand is stock that nobody counts: anything may be held.
  constraint stock_covers_held check (held <= on_hand)
) with (fillfactor = 50); -- room for updates in place: a popular SKU changes thousands of times a minute

create table orders (
  id uuid primary key,
  partition smallint not null,
  reference text,
  channel text not null,
  payment_method text not null,
  status text not null default 'pending_payment',
  cancel_reason text,
  currency text not null,
  amount bigint not null,
  -- [{sku, quantity, unitAmount}], each SKU once. On the row, so that a release needs no other table and its lock.
  items jsonb not null,
  metadata jsonb not null,
  created_at timestamptz(3) not null,
  -- What the customer is shown.
  deadline_at timestamptz(3) not null,
  -- deadline_at and the grace behind it: from here on the order may be cancelled.
  expire_at timestamptz(3) not null,
  -- When the sweeper looks next: at first expire_at, later while the order must wait.
  check_at timestamptz(3) not null,
  -- Frozen time up to here was given back by a thaw.
  thawed_through timestamptz(3),
  paid_at timestamptz(3),
  cancelled_at timestamptz(3),
  constraint orders_partition_range check (partition between 0 and 63),
  constraint orders_status_known check (status in ('pending_payment', 'paid', 'cancelled')),
  constraint orders_paid_has_time check ((status = 'paid') = (paid_at is not null)),
  constraint orders_cancelled_has_time check ((status = 'cancelled') = (cancelled_at is not null)),
  constraint orders_cancelled_has_reason check ((status = 'cancelled') = (cancel_reason is not null)),
  constraint orders_cancel_reason_known check (cancel_reason in ('payment_timeout', 'customer', 'merchant')),
  constraint orders_never_expired_early check (cancel_reason <> 'payment_timeout' or cancelled_at >= expire_at),
  constraint orders_currency_form check (currency ~ '^[A-Z]{3}$'),
  constraint orders_amount_range check (amount between 1 and 9007199254740991),
  constraint orders_items_form check (jsonb_typeof(items) = 'array' and jsonb_array_length(items) between 1 and 100),
  constraint orders_metadata_form check (jsonb_typeof(metadata) = 'object'),
  constraint orders_deadline_after_creation check (deadline_at > created_at),
  constraint orders_grace_not_negative check (expire_at >= deadline_at)
);

-- The sweeper's and the thaw's way to the orders they look for.
create index orders_due on orders (check_at) where status = 'pending_payment';
-- Which partitions pending orders still name: a handful of values, deduplicated to a few pages.
create index orders_pending_partition on orders (partition) where status = 'pending_payment';
create index orders_reference on orders (reference, id) where reference is not null;

-- Money that was reported to us. One row for each capture at a provider.
create table payments (
  id uuid primary key,
  order_id uuid not null references orders,
  provider text not null,
  provider_payment_id text not null,
  amount bigint not null,
  currency text not null,
  outcome text not null,
  -- True where a payment provider's adapter checked it, false where the shop told us.
  verified boolean not null,
  recorded_at timestamptz(3) not null,
  -- Since when it waits on the work list for a person. Null: it paid its order.
  listed_at timestamptz(3),
  constraint payments_capture_once unique (provider, provider_payment_id),
  constraint payments_outcome_known check (outcome in ('paid', 'duplicate', 'late', 'amount_mismatch')),
  constraint payments_pay_or_are_listed check ((outcome = 'paid') = (listed_at is null)),
  constraint payments_amount_range check (amount between 1 and 9007199254740991)
);

-- The schema itself forbids that two payments pay one order.
create unique index payments_pay_once on payments (order_id) where outcome = 'paid';
create index payments_order on payments (order_id, id);
create index payments_work_list on payments (listed_at, id) where listed_at is not null;

-- The outbox: written with the transition it tells of.
create table events (
  -- Drawn after the order's row is locked, so that it orders the events of one order.
  seq bigint generated always as identity primary key,
  -- Given to committed events by one numberer, in the order of seq: what readers of the feed go by.
  position bigint,
  -- No foreign key: the check would cost every transition. What removes an order removes its events.
  order_id uuid not null,
  type text not null,
  actor text not null,
  at timestamptz(3) not null,
  data jsonb not null
);

create index events_order on events (order_id, seq);

-- A request that was answered with success, kept for 24 h so that its repetition changes nothing.
create table idempotency_keys (
  scope text not null,
  key text not null,
  body_hash bytea not null,
  order_id uuid not null,
  payment_id uuid,
  outcome text not null,
  created_at timestamptz(3) not null,
  primary key (scope, key)
);

-- The purge's way to old keys; a BRIN costs a checkout next to nothing.
create index idempotency_keys_age on idempotency_keys using brin (created_at);

-- Times in which the clock of pending orders stands still.
create table freezes (
  id uuid primary key,
  state text not null default 'frozen',
  reason text not null,
  actor text not null,
  frozen_at timestamptz(3) not null,
  thawing_at timestamptz(3),
  -- The transaction that began the thaw. When all older ones have ended, no order from before it can still appear.
  thaw_xid xid8,
  done_at timestamptz(3),
  constraint freezes_state_known check (state in ('frozen', 'thawing', 'done')),
  constraint freezes_thaw_has_time check ((state = 'frozen') = (thawing_at is null)),
  constraint freezes_thaw_has_xid check ((thawing_at is null) = (thaw_xid is null)),
  constraint freezes_done_has_time check ((state = 'done') = (done_at is not null)),
  constraint freezes_thaw_after_freeze check (thawing_at >= frozen_at)
);
