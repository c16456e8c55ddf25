-- An organisation's credit.

-- name: biller
SELECT provider FROM assignments WHERE org_id = :org_id AND customer_id <> '' AND start_ms <= :now_ms
    AND (end_ms IS NULL OR :now_ms < end_ms)

-- name: verdicts
-- The last transitions, newest first.
SELECT at_ms, read_ms, is_halted, reason, max_concurrent_sandboxes, balance_micro, unaccepted_micro, unsealed_micro,
    held_micro
FROM projections WHERE org_id = :org_id ORDER BY projection_id DESC LIMIT 10

-- name: holders
-- Of the wallet it is billed by now: another organisation's run may hold it, too. Of a balance that its provider keeps
-- (`elsewhere`), its own runs hold.
SELECT r.reservation, r.amount_micro - r.drawn_micro AS left_micro, r.expires_ms
FROM reservations r JOIN assignments a ON a.customer_id = r.customer_id
WHERE a.org_id = :org_id AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)
    AND CASE WHEN :elsewhere THEN r.hold = 'local' AND r.org_id = :org_id ELSE r.hold = 'wallet' END
    AND r.state = 'held' AND r.expires_ms > :now_ms AND r.drawn_micro < r.amount_micro
ORDER BY 2 DESC, 1 LIMIT :at_most
