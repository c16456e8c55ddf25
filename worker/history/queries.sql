-- The identity of the database, and the losses of its history (R1).

-- name: incarnation
SELECT database_id, number, sends, system_id, timeline, doubted_reason FROM incarnation

-- name: server [postgresql]
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_id,
    left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline

-- name: current_database [postgresql]
SELECT current_database()

-- name: doubt
UPDATE incarnation SET doubted_ms = :doubted_ms, doubted_reason = :doubted_reason,
    doubted_after_tick = (SELECT COALESCE(MAX(tick_id), 0) FROM ticks)

-- name: keep_server
UPDATE incarnation SET system_id = :system_id, timeline = :timeline

-- name: worker_of_tick
SELECT worker FROM ticks WHERE tick_id = :tick_id

-- name: count_sends
UPDATE incarnation SET sends = sends + :claimed WHERE doubted_ms IS NULL RETURNING database_id, number, sends

-- name: incarnation_and_tick
SELECT i.database_id, i.number, i.sends,
    (SELECT t.worker FROM ticks t WHERE t.tick_id = :tick_id) AS worker FROM incarnation i

-- name: incarnation_and_last_tick
SELECT i.database_id, i.number, i.sends, COALESCE(t.tick_id, 0) AS tick_id, COALESCE(t.worker, '') AS worker
FROM incarnation i LEFT JOIN ticks t ON t.tick_id = (SELECT MAX(tick_id) FROM ticks)

-- name: doubted
SELECT 1 FROM incarnation WHERE doubted_ms IS NOT NULL

-- name: losses
SELECT from_ms, until_ms FROM losses

-- name: last_loss
-- The loss after which this incarnation began.
SELECT from_ms, until_ms, at_ms FROM losses WHERE number < :number ORDER BY number DESC LIMIT 1

-- name: last_before_doubt
-- The last tick before the doubt was found. The order of ticks decides, because the clocks of machines may differ. The
-- start of a tick counts, because a tick that runs during a restore ends after it.
SELECT MAX(started_ms) FROM ticks
WHERE tick_id <= COALESCE((SELECT doubted_after_tick FROM incarnation), tick_id)

-- name: keep_loss
INSERT INTO losses (number, from_ms, until_ms, at_ms, seal_id, found, actor, reason)
VALUES (:number, :from_ms, :until_ms, :at_ms, (SELECT COALESCE(MAX(seal_id), 0) FROM seals), :found, :actor, :reason)

-- name: read_all_again
-- The restored database counts arrivals from an earlier number on, so seals read all arrivals again (S2).
UPDATE buckets SET cursor = 0, epoch = epoch + 1

-- name: ask_all
UPDATE orgs SET projection_due_ms = :now_ms, refresh_requests = refresh_requests + 1
WHERE billing_provider NOT IN {unbilled}

-- name: newest_sample
SELECT MAX(ts) FROM usage_samples WHERE problem IS NULL

-- name: providers_of_open
SELECT DISTINCT provider FROM pushes WHERE state IN {open_states}

-- name: ask_first
UPDATE pushes SET state = :state, due_at_ms = :now_ms, claim_owner = NULL, settled_ms = NULL,
    last_error = 'it may have been sent in the history that was lost: it is looked up first'
WHERE provider = :provider AND state IN {open_states}
    AND (state IN ('due', 'queued') OR (state = 'rejected' AND :rejected = 1))

-- name: begin_anew
UPDATE incarnation SET number = :number, sends = :sends, system_id = :system_id, timeline = :timeline,
    doubted_ms = NULL, doubted_reason = NULL, doubted_after_tick = NULL

-- name: database_id
SELECT database_id FROM incarnation
