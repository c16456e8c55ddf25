-- What the guard charges for, beside what the mapping makes the seal bill.

-- name: charging
-- When metrics that count one of these names cost something: each from its terms to the next ones.
SELECT q.metric, q.counts, q.start_ms, q.end_ms FROM (
    SELECT metric, COALESCE(counts, metric) AS counts, price_micro, at_ms AS start_ms,
        COALESCE(LEAD(at_ms) OVER (PARTITION BY metric ORDER BY number), 4503599627370496) AS end_ms
    FROM guard_metrics) q
WHERE q.price_micro > 0 AND q.counts IN :names

-- name: types
SELECT meter, event_type FROM event_types WHERE event_type IN :names
