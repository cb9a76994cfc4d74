-- Up Migration

-- Who thaws a freeze stands on it, as who releases a brake does. A freeze that was thawed before this has nobody.
alter table freezes
  drop constraint freezes_released_brake_has_name,
  drop constraint freezes_extend_a_release,
  add constraint freezes_released_by_somebody check
    (case when state = 'frozen' then released_by is null else kind = 'freeze' or released_by is not null end),
  add constraint freezes_extend_a_release check (extend_ms is null or kind = 'brake' and released_by is not null);
