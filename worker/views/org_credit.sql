-- An organisation's credit.

-- name: biller
SELECT provider FROM assignments WHERE org_id = :org_id AND customer_id <> '' AND start_ms <= :now_ms
    AND (end_ms IS NULL OR :now_ms < end_ms)

-- name: verdicts
-- The last transitions, newest first.
SELECT at_ms, read_ms, is_halted, reason, max_concurrent_sandboxes, balance_micro, unaccepted_micro, unsealed_micro
FROM projections WHERE org_id = :org_id ORDER BY projection_id DESC LIMIT 10
