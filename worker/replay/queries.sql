-- The statements of a replay: its plan, progress and results.

-- name: only_these
-- The condition for the chosen organisations. If the slot is empty, the statement covers all. `o` and `q` are rows with
-- an organisation.
AND o.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} r)

-- name: only_of_these
AND q.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} r)

-- name: floored
SELECT o.org_id FROM orgs o WHERE o.floor_ms > :start_ms {only}

-- name: stopped
SELECT o.org_id FROM orgs o WHERE o.stopped_at_ms IS NOT NULL {only} ORDER BY o.org_id

-- name: flips
SELECT o.org_id, o.start_ms AS at_ms, b.provider AS was, o.provider AS becomes FROM assignments o
JOIN assignments b ON b.org_id = o.org_id AND b.end_ms = o.start_ms
WHERE o.start_ms > :start_ms AND o.start_ms < :end_ms AND b.provider <> o.provider {only} ORDER BY o.start_ms, o.org_id

-- name: billed_by
SELECT DISTINCT org_id FROM assignments WHERE provider = :provider AND start_ms < :end_ms
    AND (end_ms IS NULL OR end_ms > :start_ms) ORDER BY org_id

-- name: billed_from
SELECT MIN(start_ms) FROM assignments WHERE provider = :provider

-- name: first_sample
-- The query looks up the first sample of each organisation, because PostgreSQL's index on the time of samples (BRIN)
-- does not give the earliest time.
SELECT MIN(first_sample_ms) AS first_sample_ms FROM (
    SELECT (SELECT s.ts FROM usage_samples s WHERE s.org_id = o.org_id AND s.problem IS NULL ORDER BY s.ts LIMIT 1)
        AS first_sample_ms FROM orgs o WHERE 1 = 1 {only}) firsts

-- name: first_push
SELECT MIN(window_ms) FROM pushes

-- name: sealed_to
SELECT MIN(watermark_ms) FROM buckets

-- name: assigned_at
SELECT 1 FROM assignments o WHERE o.provider = :provider {only} LIMIT 1

-- name: everybody
SELECT org_id FROM orgs WHERE stopped_at_ms IS NULL ORDER BY org_id

-- name: load
SELECT COUNT(*) + COALESCE(SUM(ABS(samples)), 0) FROM seal_work

-- name: unfinished
SELECT * FROM replays WHERE finished_ms IS NULL AND lease_ms > :since_ms ORDER BY replay_id

-- name: begin
INSERT INTO replays (scope, from_ms, to_ms, next_ms, worker, started_ms, lease_ms, actor, reason, job_id)
VALUES (:scope, :from_ms, :to_ms, :next_ms, :worker, :started_ms, :lease_ms, :actor, :reason, :job_id) RETURNING replay_id

-- name: take_over
-- If a job continues a replay that a person started, or a person continues that of a job, the replay belongs to the
-- job.
UPDATE replays SET worker = :worker, lease_ms = :lease_ms, job_id = COALESCE(:job_id, job_id) WHERE replay_id = :replay_id

-- name: advance
UPDATE replays SET next_ms = :next_ms, pushes = pushes + :pushes, lease_ms = :lease_ms, finished_ms = :finished_ms
WHERE replay_id = :replay_id AND worker = :worker AND next_ms <= :start_ms

-- name: found
SELECT org_id, window_ms, feature, revision, sealed_qty, provider, state FROM pushes
WHERE seal_id = :seal_id AND window_ms >= :start_ms ORDER BY window_ms, org_id, feature

-- name: in_range
q.window_ms >= :start_ms AND q.window_ms < :end_ms

-- name: still_open
-- Pushes that are sealed but not settled: due, queued, in doubt or rejected.
SELECT COUNT(*) AS pushes, COALESCE(SUM(q.sealed_qty), 0) AS quantity FROM pushes q
WHERE {in_range} AND q.state IN {open_states} {only} {biller}

-- name: of_this_biller
AND q.provider = :provider

-- name: left_pending
SELECT 'pending: ' || q.reason AS reason, {unit_of_size} AS unit, {windows} AS windows, SUM(q.seconds) AS quantity
FROM pending_usage q WHERE {in_range} {only} GROUP BY q.reason, {unit_of_size}

-- name: windows
-- A window of an organisation can have several rows, one for each memory size or revision.
COUNT(DISTINCT q.org_id || ' ' || q.window_ms)

-- name: unit_of_size
-- The unit of an event type is not seconds.
CASE WHEN q.memory_mb > {most_memory_mb} THEN 'units' ELSE 's' END

-- name: left_exempt
-- The seal's work table still has the range's usage.
SELECT 'exempt: ' || a.provider AS reason, {unit_of_size} AS unit, {windows} AS windows, SUM(q.seconds) AS quantity
FROM seal_work q
JOIN assignments a ON a.org_id = q.org_id AND a.start_ms <= q.window_ms
    AND (a.end_ms IS NULL OR q.window_ms < a.end_ms) AND a.provider IN {unbilled}
WHERE 1 = 1 {only} GROUP BY a.provider, {unit_of_size}

-- name: left_shadow
SELECT 'shadow: ' || q.provider AS reason, q.feature AS unit, {windows} AS windows, SUM(q.sealed_qty) AS quantity
FROM pushes q WHERE {in_range} AND q.state = 'shadow'
    AND q.seal_id <> :seal_id {only} GROUP BY q.provider, q.feature

-- name: left_quarantined
SELECT 'quarantined: ' || q.problem AS reason, 'samples' AS unit, COUNT(*) AS windows, COUNT(*) AS quantity
FROM usage_samples q
WHERE q.problem IS NOT NULL AND q.ts >= :start_ms AND q.ts < :end_ms {only} GROUP BY q.problem

-- name: left_stopped
SELECT 'stopped organisation' AS reason, 'samples' AS unit, COUNT(*) AS windows, COUNT(*) AS quantity
FROM usage_samples q JOIN orgs o ON o.org_id = q.org_id AND o.stopped_at_ms IS NOT NULL
WHERE q.ts >= :start_ms AND q.ts < :end_ms AND q.problem IS NULL {only} HAVING COUNT(*) > 0
