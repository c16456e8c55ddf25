-- The cost of features at vendors, and the vendors' bills.

-- name: insert_units
INSERT INTO vendor_units (feature, vendor, service, start_ms, unit, units, money_micro, per_quantity, currency, at_ms,
    actor, reason)
VALUES (:feature, :vendor, :service, :start_ms, :unit, :units, :money_micro, :per_quantity, :currency, :at_ms, :actor,
    :reason)
ON CONFLICT DO NOTHING RETURNING feature

-- name: units
SELECT unit, units, money_micro, per_quantity, currency FROM vendor_units
WHERE feature = :feature AND vendor = :vendor AND service = :service AND start_ms = :start_ms

-- name: days_of_units
SELECT start_ms FROM vendor_units
WHERE feature = :feature AND vendor = :vendor AND service = :service AND start_ms > :start_ms

-- name: insert_import
-- If two files are imported at the same time, one import takes the number. The other import waits, and does not add a
-- row.
INSERT INTO vendor_imports (import_id, number, at_ms, actor, reason)
SELECT :import_id, COALESCE(MAX(i.number), 0) + 1, CAST(:at_ms AS BIGINT), :actor, :reason FROM vendor_imports i
WHERE 1 = 1
ON CONFLICT DO NOTHING RETURNING number

-- name: imported
SELECT 1 FROM vendor_imports WHERE import_id = :import_id

-- name: final_days
SELECT b.vendor, b.day_ms FROM {rows :days (vendor text, day_ms bigint)} d
JOIN vendor_bills b ON b.vendor = d.vendor AND b.day_ms = d.day_ms AND b.is_final LIMIT 1

-- name: insert_bills
INSERT INTO vendor_bills (number, vendor, service, day_ms, currency, billed_micro, is_final)
VALUES (:number, :vendor, :service, :day_ms, :currency, :billed_micro, :is_final)

-- Estimates and bills of vendors.

-- name: estimated
-- Sealed usage, receipts of executions, and use of metrics, by feature and day, at the cost that is in force on that
-- day. Use that was written off, allowed without credit, or free for its organisation counts, because the vendor
-- charges it. The seal may also bill the use of a metric without a price. `sealed_as` is the feature of such use in its
-- window. If a service has a cost of that feature, the use of the metric does not count again.
WITH made AS (
    SELECT x.feature, x.start_ms, x.end_ms FROM (SELECT feature, start_ms, COALESCE(LEAD(start_ms) OVER (
        PARTITION BY kind, memory_mb ORDER BY start_ms, mapping_id), {forever_ms}) AS end_ms FROM mappings) x
    WHERE x.feature IN (SELECT COALESCE(g.counts, g.metric) FROM guard_metrics g)
), used AS (
    SELECT p.feature, p.window_ms - p.window_ms % 86400000 AS day_ms, CAST(SUM(p.sealed_qty) AS BIGINT) AS quantity,
        CAST(NULL AS TEXT) AS sealed_as
    FROM pushes p WHERE p.window_ms >= :from_ms AND p.window_ms < :to_ms AND p.state <> 'voided'
    GROUP BY 1, 2
    UNION ALL SELECT f.feature, f.day_ms, CAST(SUM(f.sealed_qty) AS BIGINT), NULL FROM folded_pushes f
    WHERE f.day_ms >= :from_ms AND f.day_ms < :to_ms AND f.state <> 'voided' GROUP BY 1, 2
    UNION ALL SELECT e.feature, e.ts - e.ts % 86400000, CAST(SUM(e.quantity) AS BIGINT), NULL FROM ledger_entries e
    WHERE e.kind = 'execution' AND e.quantity IS NOT NULL AND e.ts >= :from_ms AND e.ts < :to_ms AND e.key NOT LIKE '%:-'
    GROUP BY 1, 2
    UNION ALL SELECT k.metric, k.window_ms - k.window_ms % 86400000, CAST(SUM(k.amount) AS BIGINT),
        CASE WHEN k.price_micro = 0 THEN COALESCE({feature_of_meter}, (SELECT MIN(m.feature) FROM made m
            WHERE m.feature = k.counts AND m.start_ms <= k.window_ms AND k.window_ms < m.end_ms)) END
    FROM ({metered}) k GROUP BY 1, 2, 4
)
SELECT v.vendor, v.service, v.currency, u.day_ms, u.quantity, v.money_micro, v.per_quantity
FROM used u JOIN vendor_units v ON v.feature = u.feature AND v.start_ms = (SELECT MAX(x.start_ms) FROM vendor_units x
    WHERE x.feature = v.feature AND x.vendor = v.vendor AND x.service = v.service AND x.start_ms <= u.day_ms)
WHERE u.sealed_as IS NULL OR NOT EXISTS (SELECT 1 FROM vendor_units w WHERE w.feature = u.sealed_as
    AND w.vendor = v.vendor AND w.service = v.service AND w.currency = v.currency AND w.start_ms <= u.day_ms)
LIMIT :at_most

-- name: metered
-- The use of metrics by window, with the event type or feature that each counts, and the meter of the event type.
SELECT u.metric, u.at_ms - u.at_ms % {window_length_ms} AS window_ms, g.price_micro,
    COALESCE(g.counts, g.metric) AS counts, t.meter, SUM(u.amount) AS amount
FROM guard_uses u JOIN guard_metrics g ON g.metric = u.metric AND g.number = u.metric_number
LEFT JOIN event_types t ON t.event_type = COALESCE(g.counts, g.metric)
WHERE u.metric IN (SELECT x.feature FROM vendor_units x) AND u.at_ms >= :from_ms AND u.at_ms < :to_ms
    AND u.state IN ('used', 'settled', 'released') GROUP BY 1, 2, 3, 4, 5

-- name: mapped
-- The spans in which a vendor's service has a cost in a currency. The currency may change.
SELECT v.vendor, v.service, v.currency, v.start_ms, COALESCE(LEAD(v.start_ms) OVER (
    PARTITION BY v.feature, v.vendor, v.service ORDER BY v.start_ms), {forever_ms}) AS end_ms
FROM vendor_units v

-- name: bills
-- The latest file of a vendor's day replaces the whole day.
SELECT b.vendor, b.service, b.currency, b.day_ms, b.billed_micro, b.is_final
FROM vendor_bills b WHERE b.day_ms >= :from_ms AND b.day_ms < :to_ms
    AND b.number = (SELECT MAX(x.number) FROM vendor_bills x WHERE x.vendor = b.vendor AND x.day_ms = b.day_ms)
LIMIT :at_most

-- name: imported_late
-- The days of vendors with a bill that was first imported since a time. If an earlier import has the same bill, the
-- bill is not new.
SELECT DISTINCT b.vendor, b.day_ms FROM vendor_imports i JOIN vendor_bills b ON b.number = i.number
WHERE i.at_ms >= :since_ms AND b.day_ms >= :from_ms AND b.day_ms < :to_ms AND NOT EXISTS (SELECT 1 FROM vendor_bills x
    WHERE x.vendor = b.vendor AND x.day_ms = b.day_ms AND x.number < b.number AND x.service = b.service
        AND x.currency = b.currency AND x.billed_micro = b.billed_micro)
LIMIT :at_most

-- name: costs
-- A feature that the guard charges for has the price of its metric, and a billed feature has a rate. A metric's price
-- takes precedence, because the rate of a feature that was billed before does not end.
SELECT v.feature, v.vendor, v.service, v.unit, v.units, v.money_micro, v.currency, v.per_quantity,
    COALESCE(CASE WHEN m.price_micro > 0 THEN m.price_micro END, r.micro_credits, m.price_micro) AS micro_credits,
    COALESCE(CASE WHEN m.price_micro > 0 THEN m.per_units END, r.per_quantity, m.per_units) AS rate_per
FROM vendor_units v LEFT JOIN ledger_rates r ON r.feature = v.feature AND r.start_ms = (SELECT MAX(y.start_ms)
    FROM ledger_rates y WHERE y.feature = v.feature AND y.start_ms <= :now_ms)
LEFT JOIN guard_metrics m ON m.metric = v.feature
    AND m.number = (SELECT MAX(z.number) FROM guard_metrics z WHERE z.metric = v.feature)
WHERE v.start_ms = (SELECT MAX(x.start_ms) FROM vendor_units x WHERE x.feature = v.feature AND x.vendor = v.vendor
    AND x.service = v.service AND x.start_ms <= :now_ms)
ORDER BY v.feature, v.vendor, v.service
