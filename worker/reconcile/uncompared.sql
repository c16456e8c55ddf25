-- What was settled at providers, and nobody has compared with them. One row for each provider.

-- name: needs_person
m.open_days > 0 AND m.said LIKE :needs_you

-- name: uncompared
-- A provider is late that still bills somebody, and was compared before.
SELECT m.provider, COALESCE(SUM(m.open_days), 0) AS open_days, MIN(m.open_since_ms) AS open_since_ms,
    MAX(CASE WHEN m.customer_id = '' THEN m.compared_ms END) AS compared_ms,
    MAX(CASE WHEN m.open_days > 0 THEN m.customer_id || ': ' || m.said ELSE '' END) AS said,
    SUM(CASE WHEN {needs_person} THEN 1 ELSE 0 END) AS for_person,
    MAX(CASE WHEN {needs_person} THEN m.customer_id || ': ' || m.said ELSE '' END) AS said_to_person,
    MAX(CASE WHEN m.customer_id = '' AND m.compared_ms < :late_ms AND EXISTS (SELECT 1 FROM assignments a
        WHERE a.provider = m.provider AND a.end_ms IS NULL) THEN 1 ELSE 0 END) AS is_late
FROM compared_marks m GROUP BY m.provider ORDER BY m.provider
