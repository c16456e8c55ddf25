-- The figures that a dry run shows of a batch.

-- name: samples
SELECT COUNT(*) FROM usage_samples WHERE id > :first_id AND id < :beyond_id
