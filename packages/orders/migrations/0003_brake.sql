-- Up Migration

-- The brake is a freeze that expiry puts on by itself when too much is overdue. It holds orders as a freeze does, but
-- gives no time back when it is released, unless somebody grants an extension.
alter table freezes
  add column kind text not null default 'freeze',
  -- Who released a brake.
  add column released_by text,
  -- What each held order gets from the release of a brake on. Null: nothing.
  add column extend_ms bigint,
  add constraint freezes_kind_known check (kind in ('freeze', 'brake')),
  add constraint freezes_released_brake_has_name check
    ((kind = 'brake' and state <> 'frozen') = (released_by is not null)),
  add constraint freezes_extend_a_release check (extend_ms is null or released_by is not null),
  add constraint freezes_extend_range check (extend_ms between 1000 and 7776000000);

-- However many processes find that too much is overdue: one brake is on.
create unique index freezes_one_brake on freezes (kind) where kind = 'brake' and state = 'frozen';
