-- Up Migration

alter table orders
  -- How long before its deadline the customer is reminded, ms, as the policy was at checkout. Null: not at all.
  add column reminders bigint[],
  -- When the next reminder is due. Null: none is left.
  add column remind_at timestamptz(3),
  add constraint orders_remind_at_within check (remind_at is null or reminders is not null and remind_at < deadline_at);

-- The way to the reminders that are due; an order without them is not in it.
create index orders_remind on orders (remind_at) where status = 'pending_payment' and remind_at is not null;
