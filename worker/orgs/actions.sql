-- Changes of organisations: register, halt.

-- name: register
INSERT INTO orgs (org_id, bucket, registered) VALUES (:org_id, :bucket, true)
ON CONFLICT (org_id) DO UPDATE SET registered = true, bucket = COALESCE(orgs.bucket, excluded.bucket);
UPDATE pending_usage SET reason = 'no_assignment' WHERE org_id = :org_id AND reason = 'unknown_org'

-- name: set_operator_halt
UPDATE orgs SET operator_halt = :operator_halt WHERE org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} r)
