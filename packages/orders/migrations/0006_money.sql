-- Up Migration

-- A policy may say that an order waits for ever (bank transfer, cash on delivery): its deadline is 'infinity' then, which
-- compares as it should everywhere, and is shown as null.
alter table orders
  -- Payment attempts that may still bring money. Changed under the row's lock only: an expiry that waited for the lock
  -- re-checks this row, and no other.
  add column open_attempt_count smallint not null default 0,
  -- The fence: since when the providers are being asked before the order is cancelled. No attempt is opened behind it.
  add column closing_at timestamptz(3),
  -- How often and how far the deadline was extended: policies bound both.
  add column extension_count smallint not null default 0,
  add column extended_ms bigint not null default 0,
  -- Since when the order has, or had, an attempt with each provider: {"stripe": instant}. What a freeze of a provider goes by.
  add column providers jsonb,
  add constraint orders_open_attempt_count_range check (open_attempt_count >= 0),
  add constraint orders_closing_while_pending check (closing_at is null or status = 'pending_payment'),
  add constraint orders_extension_range check (extension_count >= 0 and extended_ms >= 0);

-- One way for a customer to pay one order: a page at a provider, a QR code, an account to transfer to. Written before the
-- provider is called, so that no page is open that we do not know of.
create table payment_attempts (
  -- Also the idempotency key at the provider.
  id uuid primary key,
  order_id uuid not null references orders,
  provider text not null,
  -- opening: the provider may have been called. open: it answered. The others have ended: closed, paid, refused.
  state text not null default 'opening',
  -- The provider's name for it; null while that is not known.
  provider_attempt_id text,
  -- What it was opened with, to open it again in exactly the same way.
  hand_off_as text not null,
  return_url text,
  pay_by timestamptz(3) not null,
  -- What the customer needs: {url} or {clientSecret} or {instructions}.
  hand_off jsonb,
  created_at timestamptz(3) not null,
  ended_at timestamptz(3),
  -- What the provider said last while it did not end, since when it says so, and how often it was asked.
  verdict text,
  verdict_since timestamptz(3),
  verdict_reason text,
  ask_count integer not null default 0,
  -- From when on ops are to see to it. Where money is on its way, its policy says how long that may take.
  alarm_at timestamptz(3),
  -- When the provider is asked next, by itself: shortly before the deadline, and when the order was settled otherwise.
  -- Null: the order's own time decides.
  ask_at timestamptz(3),
  constraint payment_attempts_state_known check (state in ('opening', 'open', 'closed', 'paid', 'refused')),
  constraint payment_attempts_ended_has_time check ((state in ('closed', 'paid', 'refused')) = (ended_at is not null)),
  constraint payment_attempts_open_has_id check (state <> 'open' or provider_attempt_id is not null),
  constraint payment_attempts_hand_off_as_known check (hand_off_as in ('url', 'client_secret')),
  constraint payment_attempts_verdict_known check (verdict in ('open', 'processing', 'unknown')),
  constraint payment_attempts_verdict_has_time check ((verdict is null) = (verdict_since is null)),
  constraint payment_attempts_ended_asks_no_more check (ended_at is null or ask_at is null),
  constraint payment_attempts_provider_length check (char_length(provider) between 1 and 64),
  constraint payment_attempts_provider_attempt_once unique (provider, provider_attempt_id)
);

-- The schema itself forbids that an order has two open attempts at one provider.
create unique index payment_attempts_open_once on payment_attempts (order_id, provider) where ended_at is null;
create index payment_attempts_order on payment_attempts (order_id, id);
create index payment_attempts_ask on payment_attempts (ask_at) where ask_at is not null;
create index payment_attempts_alarm on payment_attempts (alarm_at) where ended_at is null and alarm_at is not null;
create index payment_attempts_verdict on payment_attempts (verdict, verdict_since) where ended_at is null;

alter table payments
  -- Null: a verified payment for an order that does not exist.
  alter column order_id drop not null,
  -- Why a person must decide about it.
  add column listed_for text,
  -- It goes back the way it came: see refunds.
  add column goes_back boolean not null default false,
  -- What the person decided.
  add column resolution text,
  add column resolved_at timestamptz(3),
  add column resolved_by text,
  add column note text,
  drop constraint payments_pay_or_are_listed,
  drop constraint payments_outcome_known,
  add constraint payments_outcome_known
    check (outcome in ('paid', 'duplicate', 'late', 'amount_mismatch', 'orderless')),
  -- No money without goods, a refund, or a person who is told.
  add constraint payments_pay_go_back_or_are_listed check (outcome = 'paid' or goes_back or listed_at is not null),
  add constraint payments_orderless_has_no_order check ((outcome = 'orderless') = (order_id is null)),
  add constraint payments_reason_is_of_list check (listed_for is null or listed_at is not null),
  add constraint payments_listed_for_known
    check (listed_for in ('unverified', 'policy', 'orderless', 'restated', 'conflict', 'refund_failed')),
  add constraint payments_resolution_known check (resolution in ('refund', 'accept', 'dismiss')),
  add constraint payments_resolved_whole
    check ((resolution is null) = (resolved_at is null) and (resolution is null) = (resolved_by is null)),
  add constraint payments_note_length check (char_length(note) between 1 and 1000);

drop index payments_work_list;
create index payments_work_list on payments (listed_at, id) where listed_at is not null and resolved_at is null;

-- Money that goes back. One for each payment: the schema itself forbids a second.
create table refunds (
  -- Also the idempotency key at the provider.
  id uuid primary key,
  payment_id uuid not null references payments,
  -- due: to be sent. sent: the provider took it. confirmed: it told that it is done. failed: a person must see to it.
  state text not null default 'due',
  provider_refund_id text,
  -- Under which keys it was sent before and refused: the provider may still say something of them.
  former_ids uuid[] not null default '{}',
  -- Who decided that it goes back: policy, or a person.
  actor text not null,
  due_at timestamptz(3) not null,
  -- Since when it may have reached the provider: older than its idempotency window, it is looked up first.
  first_sent_at timestamptz(3),
  sent_at timestamptz(3),
  confirmed_at timestamptz(3),
  failed_at timestamptz(3),
  try_count integer not null default 0,
  -- When it is sent, or asked about, next. Null: nothing is left to do.
  try_at timestamptz(3),
  last_reason text,
  constraint refunds_payment_once unique (payment_id),
  constraint refunds_state_known check (state in ('due', 'sent', 'confirmed', 'failed')),
  constraint refunds_sent_has_id check (state not in ('sent', 'confirmed') or provider_refund_id is not null),
  constraint refunds_confirmed_has_time check ((state = 'confirmed') = (confirmed_at is not null)),
  constraint refunds_failed_has_time check ((state = 'failed') = (failed_at is not null)),
  constraint refunds_ended_tries_no_more check (state in ('due', 'sent') or try_at is null)
);

create index refunds_try on refunds (try_at) where try_at is not null;
create index refunds_former on refunds using gin (former_ids) where former_ids <> '{}';
create index refunds_provider_refund on refunds (provider_refund_id) where provider_refund_id is not null;

-- A freeze may be of some orders only. Null: whatever it is.
alter table freezes
  add column channel text,
  add column payment_method text,
  add column provider text,
  add constraint freezes_brake_is_of_all
    check (kind <> 'brake' or coalesce(channel, payment_method, provider) is null);
