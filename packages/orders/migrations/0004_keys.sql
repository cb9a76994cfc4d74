-- Up Migration

-- The purge walks the table block by block instead. Where rows come and go each block soon has keys of every age, so the
-- BRIN excluded none, and the planner read the whole table each minute in any case.
drop index idempotency_keys_age;
