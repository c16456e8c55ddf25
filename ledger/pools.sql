-- Pools.

-- name: one
SELECT 1 FROM pools WHERE pool = :pool

-- name: make
INSERT INTO pools (pool, at_ms, actor, reason) VALUES (:pool, :at_ms, :actor, :reason)
ON CONFLICT (pool) DO NOTHING RETURNING pool
