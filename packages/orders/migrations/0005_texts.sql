-- Up Migration

-- What the api checks at its door, checked here, too: other doors will lead here. An overlong text in an index is an error
-- of its whole statement.
alter table orders
  add constraint orders_reference_length check (char_length(reference) between 1 and 128),
  add constraint orders_channel_length check (char_length(channel) between 1 and 64),
  add constraint orders_payment_method_length check (char_length(payment_method) between 1 and 64);

alter table payments
  add constraint payments_currency_form check (currency ~ '^[A-Z]{3}$'),
  add constraint payments_provider_length check (char_length(provider) between 1 and 64),
  add constraint payments_provider_payment_id_length check (char_length(provider_payment_id) between 1 and 255);

alter table idempotency_keys
  add constraint idempotency_keys_key_length check (char_length(key) between 1 and 255);
