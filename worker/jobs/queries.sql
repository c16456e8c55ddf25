-- Jobs: queued by a person, done by a tick.

-- name: open
state IN ('waiting', 'under_way')

-- name: same
SELECT job_id, state, actor, at_ms FROM jobs WHERE {open} AND kind = :kind AND payload = :payload ORDER BY job_id LIMIT 1

-- name: count_open
SELECT COUNT(*) FROM jobs WHERE {open}

-- name: place
INSERT INTO jobs (kind, payload, state, at_ms, via, actor, reason)
VALUES (:kind, :payload, 'waiting', :at_ms, :via, :actor, :reason) RETURNING job_id

-- name: latest_assignment
SELECT provider, customer_id, start_ms FROM assignments WHERE org_id = :org_id ORDER BY start_ms DESC LIMIT 1

-- name: topup_terms
SELECT * FROM topup_terms WHERE customer_id = :wallet

-- name: cancel
UPDATE jobs SET state = 'cancelled', ended_ms = :now_ms WHERE job_id = :job_id AND state = 'waiting'

-- name: state
SELECT state FROM jobs WHERE job_id = :job_id

-- name: free
-- The job waits, or the lease of its worker has expired.
(state = 'waiting' OR (state = 'under_way' AND lease_ms <= :now_ms))

-- name: take
-- One job at a time, the oldest first. The statement checks the row again under its lock. If two ticks take a job at
-- the same time, the second waits for the commit of the first, and then finds the job taken.
UPDATE jobs SET state = 'under_way', worker = :worker, lease_ms = :lease_ms, tries = tries + 1,
    began_ms = COALESCE(began_ms, :now_ms)
WHERE {free} AND job_id = (SELECT MIN(job_id) FROM jobs WHERE {open})
RETURNING job_id, kind, payload, at_ms, actor, reason, via, tries, said

-- name: put_back
-- A turn with progress sets the tries back to 0. A turn without progress counts as a try.
UPDATE jobs SET state = 'waiting', worker = NULL, lease_ms = NULL, tries = tries * :counted, said = :said
WHERE job_id = :job_id AND state = 'under_way' AND worker = :worker

-- name: end
UPDATE jobs SET state = :state, worker = NULL, lease_ms = NULL, ended_ms = :now_ms, said = :said
WHERE job_id = :job_id AND state = 'under_way' AND worker = :worker

-- name: sealed
SELECT COALESCE(SUM(pushes), 0) FROM replays WHERE job_id = :job_id

-- name: columns
o.job_id, o.kind, o.payload, o.state, o.at_ms, o.began_ms, o.ended_ms, o.actor, o.reason, o.said, o.via

-- name: list
-- Each job with the progress of its latest replay, and the pushes that all of its replays sealed.
SELECT {columns}, r.from_ms, r.to_ms, r.next_ms,
    (SELECT COALESCE(SUM(p.pushes), 0) FROM replays p WHERE p.job_id = o.job_id) AS pushes
FROM jobs o LEFT JOIN replays r
    ON r.replay_id = (SELECT MAX(l.replay_id) FROM replays l WHERE l.job_id = o.job_id)
WHERE 1 = 1 {only} ORDER BY o.job_id DESC LIMIT :at_most

-- name: only_before
AND o.job_id < :before
