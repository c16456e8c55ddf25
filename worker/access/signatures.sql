-- Signatures of orders, each used once.

-- name: use
INSERT INTO used_signatures (signature_sha256, expires_ms) VALUES (:signature_sha256, :expires_ms)
ON CONFLICT (signature_sha256) DO NOTHING RETURNING expires_ms

-- name: forget
DELETE FROM used_signatures WHERE expires_ms < :now_ms
