-- What a wallet was used for: all that metering and runs took from it, less what they gave back, by the time of use.

-- name: first_use
SELECT MIN(ts) FROM ledger_entries WHERE from_account = :account_id AND kind IN ('usage', 'run')

-- name: used
SELECT COALESCE(CAST(SUM(amount_micro) AS BIGINT), 0) FROM ledger_entries
WHERE from_account = :account_id AND kind IN ('usage', 'run') AND ts >= :from_ms AND ts < :to_ms
