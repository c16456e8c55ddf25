-- What a wallet was used for: all that metering and runs took from it, less what they gave back, by the time of use.

-- name: is_use
from_account = :account_id AND kind IN ('usage', 'run')

-- name: used
-- `days`: the full ones since the first use, :most_days at most; that day itself is no full one, unless it began with
-- it. NULL: it was never used.
SELECT d.days, (SELECT COALESCE(CAST(SUM(amount_micro) AS BIGINT), 0) FROM ledger_entries
        WHERE {is_use} AND ts >= :today_ms - d.days * 86400000 AND ts < :today_ms) AS used_micro
FROM (SELECT CASE WHEN f.days > :most_days THEN :most_days ELSE f.days END AS days FROM (
    SELECT (:today_ms - (MIN(ts) + 86399999) / 86400000 * 86400000) / 86400000 AS days FROM ledger_entries WHERE {is_use}
) f) d
