-- Files in watched folders that wait for a person.

-- name: files_left
-- Files of `drawdown batch take` do not count, because the person who ran it saw the result.
SELECT COALESCE(SUM(CASE WHEN outcome = 'refused' THEN 1 ELSE 0 END), 0) AS refused,
    COALESCE(SUM(CASE WHEN outcome = 'conflict' THEN 1 ELSE 0 END), 0) AS conflicts,
    COALESCE(SUM(CASE WHEN outcome = 'failed' THEN 1 ELSE 0 END), 0) AS failing, MIN(seen_ms) AS since_ms
FROM batch_files WHERE outcome IN ('refused', 'conflict', 'failed') AND source <> ''
