-- Up Migration

alter table refunds
  -- It had arrived, and the bank sent it back later: a confirmation that is told again says nothing new.
  add column came_back_at timestamptz(3);

alter table payments
  -- Everything that persons decided about it, oldest first: [{resolution, actor, at, note}]. The other columns forget a
  -- decision that no longer holds.
  add column decisions jsonb not null default '[]';

alter table payment_attempts
  -- Since when money is on its way, by the provider's word; an answer that failed to come in between changes nothing.
  add column processing_since timestamptz(3);

-- The way to the newest attempts of a provider.
create index payment_attempts_newest on payment_attempts (provider, id);
