-- Executions of organisations with a balance at a provider.

-- name: hold [postgresql]
-- The lock on the organisation's row makes decisions sequential. A separate statement reads the facts for a decision,
-- because this statement may wait, and its snapshot is as old as its start.
SELECT 1 FROM orgs WHERE org_id = :org_id FOR NO KEY UPDATE

-- name: hold [sqlite]
SELECT 1 FROM orgs WHERE org_id = :org_id

-- name: org
-- The balance that was last read, and the provider that bills the organisation now.
SELECT o.org_id, o.balance_micro, o.balance_read_ms, o.unconfirmed_micro, o.is_halted, (
    SELECT a.provider FROM assignments a WHERE a.org_id = o.org_id AND a.start_ms <= :now_ms
        AND (a.end_ms IS NULL OR :now_ms < a.end_ms)) AS provider
FROM orgs o WHERE o.org_id = :org_id

-- name: used
-- The usage of an execution that was charged under one number.
SELECT feature, quantity FROM run_usage WHERE reservation = :reservation AND number = :number

-- name: used_before
-- The charged usage by feature, without the charge at the execution's end.
SELECT feature, CAST(SUM(quantity) AS BIGINT) AS quantity FROM run_usage
WHERE reservation = :reservation AND number <> 'final' GROUP BY feature

-- name: note_usage
INSERT INTO run_usage (reservation, number, feature, quantity, amount_micro, at_ms, actor, reason)
SELECT reservation, number, feature, quantity, amount_micro, :at_ms, :actor, :reason
FROM {rows :lines (reservation text, number text, feature text, quantity bigint, amount_micro bigint)} r

-- name: note_samples
INSERT INTO run_samples (sample_id, reservation, number, feature, org_id, memory_mb, interval_s, base_units, ts)
SELECT sample_id, reservation, number, feature, org_id, memory_mb, interval_s, base_units, ts
FROM {rows :samples (sample_id text, reservation text, number text, feature text, org_id text, memory_mb bigint,
    interval_s bigint, base_units bigint, ts bigint)} r
