-- Up Migration

-- The freezes that may hold an order. Every expiry asks about them for each order, and the others are of long ago.
create index freezes_active on freezes (frozen_at, id) where state <> 'done';
