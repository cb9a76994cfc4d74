-- Up Migration

-- Arming every pending deadline again, after Redis lost them. The row is how far it got: it outlives its worker.
create table rebuilds (
  id uuid primary key,
  reason text not null,
  actor text not null,
  -- Null: all of them.
  partitions smallint[],
  -- The last order that was armed; null before the first.
  cursor_check_at timestamptz(3),
  cursor_id uuid,
  armed_count bigint not null default 0,
  started_at timestamptz(3) not null,
  done_at timestamptz(3),
  constraint rebuilds_cursor_whole check ((cursor_check_at is null) = (cursor_id is null)),
  constraint rebuilds_armed_count_range check (armed_count >= 0)
);

create unique index rebuilds_one_at_a_time on rebuilds ((true)) where done_at is null;
