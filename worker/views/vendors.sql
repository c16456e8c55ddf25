-- Estimates and bills of vendors.

-- name: estimated
-- What was sealed, what receipts of runs say, and what was used of metrics that cost something, by feature and day, at
-- what it costs from the latest day before on. What was written off as it was drawn, or let through without credit, was
-- used all the same. What is used of a metric that costs nothing the seal may bill.
WITH used AS (
    SELECT p.feature, p.window_ms - p.window_ms % 86400000 AS day_ms, CAST(SUM(p.sealed_qty) AS BIGINT) AS quantity
    FROM pushes p WHERE p.window_ms >= :from_ms AND p.window_ms < :to_ms AND p.state <> 'voided'
    GROUP BY 1, 2
    UNION ALL SELECT f.feature, f.day_ms, CAST(SUM(f.sealed_qty) AS BIGINT) FROM folded_pushes f
    WHERE f.day_ms >= :from_ms AND f.day_ms < :to_ms AND f.state <> 'voided' GROUP BY 1, 2
    UNION ALL SELECT e.feature, e.ts - e.ts % 86400000, CAST(SUM(e.quantity) AS BIGINT) FROM ledger_entries e
    WHERE e.kind = 'run' AND e.quantity IS NOT NULL AND e.ts >= :from_ms AND e.ts < :to_ms AND e.key NOT LIKE '%:-'
    GROUP BY 1, 2
    UNION ALL SELECT u.metric, u.at_ms - u.at_ms % 86400000, CAST(SUM(u.amount) AS BIGINT) FROM guard_uses u
    JOIN guard_metrics g ON g.metric = u.metric AND g.number = u.metric_number AND g.price_micro > 0
    WHERE u.metric IN (SELECT x.feature FROM vendor_units x) AND u.at_ms >= :from_ms AND u.at_ms < :to_ms
        AND u.state IN ('used', 'settled', 'released') GROUP BY 1, 2
)
SELECT v.vendor, v.service, v.currency, u.day_ms, u.quantity, v.money_micro, v.per_quantity
FROM used u JOIN vendor_units v ON v.feature = u.feature AND v.start_ms = (SELECT MAX(x.start_ms) FROM vendor_units x
    WHERE x.feature = v.feature AND x.vendor = v.vendor AND x.service = v.service AND x.start_ms <= u.day_ms)
LIMIT :at_most

-- name: mapped
SELECT vendor, service, currency, MIN(start_ms) AS first_ms FROM vendor_units GROUP BY vendor, service, currency

-- name: bills
-- Of a vendor's day the latest file holds, whole.
SELECT b.vendor, b.service, b.currency, b.day_ms, b.billed_micro, b.is_final
FROM vendor_bills b WHERE b.day_ms >= :from_ms AND b.day_ms < :to_ms
    AND b.number = (SELECT MAX(x.number) FROM vendor_bills x WHERE x.vendor = b.vendor AND x.day_ms = b.day_ms)
LIMIT :at_most

-- name: costs
-- What the guard charges for has the price of its metric, and what is billed a rate: that of what was billed until the
-- guard charged for it has no end.
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
