-- The rows that hosts write.

-- name: start_sandbox
INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:sandbox_id, :org_id, :cell_id, 'running')

-- name: stop_sandboxes
UPDATE sandboxes SET state = 'stopped' WHERE cell_id = :cell_id AND org_id = :org_id

-- name: write_sample
INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at)
VALUES (:id, :org_id, :sandbox_id, :cell_id, :memory_mb, :interval_s, :ts, :ingested_at)
