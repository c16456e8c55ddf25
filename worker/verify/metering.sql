-- Executions that metering settles (invariant 10). Each sandbox is paid for once.
--
-- Guarantee: as in `ledger.sql`. The amount by which a reservation shrank is compared with all samples of its
-- sandboxes, also withdrawn samples. The samples count at the highest rate that their size ever had. So late samples
-- and withdrawals do not change the result.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: no_window
CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: lives
-- Each execution with its sandboxes. It is over at its end, and at the latest when it expires.
(SELECT r.reservation, r.org_id, r.customer_id, r.settled_by, r.state, n.org_id AS named_org_id, n.sandbox_id, n.is_open,
    r.accepted_ms, r.expires_ms, CASE WHEN r.ended_ms < r.expires_ms THEN r.ended_ms ELSE r.expires_ms END AS over_ms
FROM reservation_sandboxes n JOIN reservations r ON r.reservation = n.reservation)

-- name: paid_twice
-- If a receipt charges for usage, metering does not.
SELECT 'sandbox_double_billing' AS what, v.org_id, {no_window}, v.reservation, v.sandbox_id, COUNT(*) AS samples,
    SUM(s.interval_s) AS seconds, MIN(s.ts) AS first_ms
FROM {lives} v JOIN usage_samples s ON s.org_id = v.org_id AND s.ts >= v.accepted_ms AND s.ts < v.over_ms
    AND s.sandbox_id = v.sandbox_id
WHERE v.settled_by = 'receipt' AND s.problem IS NULL
    AND NOT EXISTS (SELECT 1 FROM withdrawals w WHERE w.sample_id = s.id)
GROUP BY v.org_id, v.reservation, v.sandbox_id

-- name: metered_entry
-- If metering charges for usage, a receipt does not.
SELECT 'metered_execution_entry' AS what, r.org_id, {no_window}, e.key, e.amount_micro, r.reservation
FROM reservations r JOIN ledger_entries e ON e.reservation = r.reservation WHERE r.settled_by = 'metering'

-- name: sandboxless
SELECT 'metered_execution_without_sandbox' AS what, r.org_id, {no_window}, r.reservation FROM reservations r
WHERE r.settled_by = 'metering' AND NOT EXISTS (
    SELECT 1 FROM reservation_sandboxes n WHERE n.reservation = r.reservation)

-- name: sandbox_open
-- A sandbox is taken while its execution is open, and is then free for another execution.
SELECT 'sandbox_state' AS what, v.org_id, {no_window}, v.reservation, v.sandbox_id, v.state,
    CASE WHEN v.is_open THEN 'taken' ELSE 'free' END AS said
FROM {lives} v WHERE v.is_open <> (v.state = 'held')

-- name: sandbox_elsewhere
-- A sandbox of an execution is named under the execution's own organisation, by which it is reserved and counted.
SELECT 'sandbox_of_other_org' AS what, v.org_id, {no_window}, v.reservation, v.sandbox_id, v.named_org_id
FROM {lives} v WHERE v.named_org_id <> v.org_id

-- name: metered_beyond
-- If an execution began below the floor, its reservation is not claimed, because its samples may be deleted.
SELECT 'metered_draw_limit' AS what, q.org_id, {no_window}, q.reservation, q.drawn_micro, q.most
FROM (SELECT r.org_id, r.reservation, r.drawn_micro, r.accepted_ms, COALESCE(o.floor_ms, 0) AS floor_ms,
        COALESCE(SUM(p.most), 0) AS most
    FROM reservations r LEFT JOIN orgs o ON o.org_id = r.org_id LEFT JOIN (
        SELECT u.reservation, u.window_ms, u.memory_mb, MAX({price}) AS most FROM {used} u
        JOIN mappings m ON m.feature IS NOT NULL AND m.start_ms <= u.window_ms AND CASE WHEN m.kind = 'exact'
            THEN m.memory_mb = u.memory_mb ELSE COALESCE(m.memory_mb, u.memory_mb) >= u.memory_mb END
        JOIN ledger_rates l ON l.feature = m.feature AND l.start_ms <= u.window_ms
        GROUP BY u.reservation, u.window_ms, u.memory_mb
    ) p ON p.reservation = r.reservation
    WHERE r.settled_by = 'metering' GROUP BY r.org_id, r.reservation, r.drawn_micro, r.accepted_ms, o.floor_ms) q
WHERE q.drawn_micro > q.most AND NOT {has_pruned}

-- name: has_pruned
-- Samples of the execution may be deleted, because its organisation's floor is above its first window.
(q.floor_ms > q.accepted_ms - q.accepted_ms % {window_length_ms})

-- name: used
(SELECT v.reservation, s.ts - s.ts % {window_length_ms} AS window_ms, s.memory_mb, SUM(s.interval_s) AS seconds
FROM {lives} v JOIN usage_samples s ON s.org_id = v.org_id AND s.ts >= v.accepted_ms AND s.ts < v.expires_ms
    AND s.sandbox_id = v.sandbox_id
WHERE v.settled_by = 'metering' AND s.problem IS NULL
GROUP BY v.reservation, s.ts - s.ts % {window_length_ms}, s.memory_mb)

-- name: price [postgresql]
-- The price is rounded up, because sizes of one feature are priced together.
CEIL(CAST(u.seconds AS NUMERIC) * CASE WHEN m.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * l.micro_credits / l.per_quantity)

-- name: price [sqlite]
((u.seconds * CASE WHEN m.unit = 'mb_s' THEN u.memory_mb ELSE 1 END * l.micro_credits + l.per_quantity - 1)
    / l.per_quantity)

-- name: metered_uncharged
-- A reservation shrinks at most by the charges of its wallet from the execution's first window on.
SELECT 'metered_draw_sum' AS what, q.org_id, {no_window}, q.reservation, q.drawn_micro, q.charged
FROM (SELECT r.org_id, r.reservation, r.drawn_micro, (SELECT COALESCE(SUM(e.amount_micro), 0) FROM ledger_entries e
        WHERE e.from_account = 'wallet:' || r.customer_id AND e.kind = 'usage' AND e.amount_micro > 0
            AND e.ts >= r.accepted_ms - r.accepted_ms % {window_length_ms}) AS charged
    FROM reservations r WHERE r.settled_by = 'metering') q
WHERE q.drawn_micro > q.charged
