-- The statements of dispatch: due halts, cells to notify, and responses.

-- name: in_force
-- A halt of the shard that is in force now. If `provider` is not empty, the halt is of an organisation that this
-- provider bills.
EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = halts.org_id AND o.is_halted
    AND o.halted_at = halts.halted_at AND o.bucket BETWEEN :lo AND :hi
    AND (:provider = '' OR o.billing_provider = :provider))

-- name: runs_on
EXISTS (SELECT 1 FROM sandboxes s WHERE s.org_id = halts.org_id AND s.cell_id = halts.cell_id AND s.state = 'running')

-- name: forget_obsolete
-- Remove due halts that are no longer in force. Also remove a halt from `empty_since_ms` or before, if its cell has not
-- acknowledged it and does not have a sandbox to stop. If a sandbox appears there, a trigger makes the halt due again.
DELETE FROM halts WHERE due_at_ms IS NOT NULL AND (NOT EXISTS (
    SELECT 1 FROM orgs o WHERE o.org_id = halts.org_id AND o.is_halted AND o.halted_at = halts.halted_at)
    OR (acked_at_ms IS NULL AND halted_at <= :empty_since_ms AND NOT EXISTS (
        SELECT 1 FROM sandboxes s WHERE s.org_id = halts.org_id AND s.cell_id = halts.cell_id
            AND s.state <> 'stopped')))

-- name: missed
-- Two transactions may not see each other. One halts an organisation, or removes its halt as obsolete, and the other
-- starts a sandbox of it. A trigger does not see such rows, so each dispatch reads the present rows. With a lock
-- instead, a host's open transaction would delay a halt, and a halt would delay the host. OFFSET keeps PostgreSQL from
-- a join with all halts, so that each halt is looked up by its key.
FROM orgs o JOIN sandboxes s ON s.org_id = o.org_id AND s.state <> 'stopped'
WHERE o.is_halted AND o.bucket BETWEEN :lo AND :hi AND (:provider = '' OR o.billing_provider = :provider)
    AND NOT EXISTS (SELECT 1 FROM halts h
        WHERE h.org_id = o.org_id AND h.cell_id = s.cell_id AND h.halted_at = o.halted_at LIMIT 1 OFFSET 0)

-- name: missed_cells
SELECT DISTINCT s.cell_id {missed}

-- name: make_missed_due
INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms)
SELECT DISTINCT o.org_id, s.cell_id, o.halted_at, o.halted_at {missed} AND s.cell_id = :cell_id ON CONFLICT DO NOTHING

-- name: forget_heeded
UPDATE halts SET ignored = 0, ignored_since_ms = NULL WHERE ignored > 0 AND {in_force} AND NOT {runs_on}

-- name: make_ignored_due
-- The query begins with the organisations that are halted now, because the table has many halts of the past.
UPDATE halts SET due_at_ms = :now_ms, ignored = ignored + 1,
    ignored_since_ms = COALESCE(ignored_since_ms, acked_at_ms)
WHERE due_at_ms IS NULL AND acked_at_ms <= :told_ms AND {in_force} AND {runs_on}
    AND org_id IN (SELECT o.org_id FROM orgs o WHERE o.is_halted)
RETURNING org_id, cell_id, ignored, ignored_since_ms

-- name: due_cells
SELECT DISTINCT cell_id FROM halts WHERE due_at_ms <= :now_ms AND {in_force} AND cell_id NOT IN :taken_cells

-- name: claim
-- MATERIALIZED selects once. A plan that selects again for each row would claim more than the limit.
WITH x AS MATERIALIZED (
    SELECT org_id, cell_id, halted_at FROM halts WHERE cell_id = :cell_id AND due_at_ms <= :now_ms AND {in_force}
    ORDER BY due_at_ms LIMIT :at_most {skip_locked}
)
UPDATE halts SET claim_owner = :claim_owner, due_at_ms = :lease_end_ms, attempts = attempts + 1
WHERE (org_id, cell_id, halted_at) IN (SELECT org_id, cell_id, halted_at FROM x)
RETURNING org_id, halted_at, attempts

-- name: skip_locked [postgresql]
FOR UPDATE SKIP LOCKED

-- name: skip_locked [sqlite]

-- name: url
SELECT url FROM cells WHERE cell_id = :cell_id

-- name: settle
UPDATE halts SET due_at_ms = :due_at_ms, acked_at_ms = COALESCE(:acked_at_ms, acked_at_ms), last_error = :last_error
WHERE org_id = :org_id AND cell_id = :cell_id AND halted_at = :halted_at AND claim_owner = :claim_owner

-- name: ignored
-- Ignored halts for which a person must act, the oldest first. `ignored > 0` repeats the condition of the index word for word, because
-- SQLite does not infer it.
SELECT cell_id, org_id, ignored AS times, ignored_since_ms AS since_ms FROM halts
WHERE ignored > 0 AND ignored >= :escalate_after AND {runs_on}
    AND EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = halts.org_id AND o.is_halted AND o.halted_at = halts.halted_at
        AND o.bucket BETWEEN :lo AND :hi)
ORDER BY ignored_since_ms, cell_id, org_id

-- name: undelivered
-- Halts in force that cells with a URL have not acknowledged, by cell and error. An ignored halt counts only once another
-- attempt failed.
SELECT h.cell_id, h.last_error AS error, COUNT(*) AS halts, MIN(h.halted_at) AS since_ms, MIN(h.org_id) AS org_id
FROM halts h WHERE h.due_at_ms IS NOT NULL AND (h.acked_at_ms IS NULL OR h.last_error IS NOT NULL)
    AND EXISTS (SELECT 1 FROM cells c WHERE c.cell_id = h.cell_id)
    AND EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = h.org_id AND o.is_halted AND o.halted_at = h.halted_at
        AND o.bucket BETWEEN :lo AND :hi)
GROUP BY h.cell_id, h.last_error ORDER BY MIN(h.halted_at), h.cell_id, h.last_error

-- name: untold
-- Cells without a URL at which halts in force are due, of all providers.
SELECT cell_id, COUNT(*) AS halts FROM halts WHERE due_at_ms IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM cells c WHERE c.cell_id = halts.cell_id)
    AND EXISTS (SELECT 1 FROM orgs o WHERE o.org_id = halts.org_id AND o.is_halted AND o.halted_at = halts.halted_at
        AND o.bucket BETWEEN :lo AND :hi)
GROUP BY cell_id ORDER BY cell_id LIMIT :at_most
