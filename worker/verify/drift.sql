-- Complete records of counts of cells and vendors for the same usage (invariant 15).
--
-- Guarantee: as in `ledger.sql`. A breach does not stop an organisation, because Drawdown does not bill by these
-- counts. The check does not claim that lines of an earlier check of a day are complete.

-- name: of_chosen
SELECT found.* FROM ({finding}) found WHERE found.org_id IN (SELECT org_id FROM {rows :orgs (org_id text)} chosen)

-- name: nowhere
CAST(NULL AS TEXT) AS org_id, CAST(NULL AS BIGINT) AS window_ms, CAST(NULL AS TEXT) AS feature

-- name: larger [postgresql]
GREATEST

-- name: larger [sqlite]
MAX

-- name: parity_sum
-- A cell's own line is the sum of its organisations' lines of the same check. If only one side has an organisation, the
-- check uses that side's seconds. The parts per million are compared only if the product fits in 64 bits.
SELECT 'parity_sum' AS what, {nowhere}, q.*
FROM (SELECT w.cell_id, w.day_ms, w.ours_s, w.theirs_s, w.withdrawn_s, w.off_s, w.ppm,
        COALESCE(CAST(SUM(p.ours_s) AS BIGINT), 0) AS ours, COALESCE(CAST(SUM(p.theirs_s) AS BIGINT), 0) AS theirs,
        COALESCE(CAST(SUM(p.withdrawn_s) AS BIGINT), 0) AS withdrawn,
        COALESCE(CAST(SUM(COALESCE(p.off_s, ABS(COALESCE(p.ours_s, 0) - COALESCE(p.theirs_s, 0)))) AS BIGINT), 0) AS off,
        COALESCE(CAST(SUM({larger}(COALESCE(p.ours_s, 0), COALESCE(p.theirs_s, 0))) AS BIGINT), 0) AS most
    FROM parity_checks w LEFT JOIN parity_checks p ON p.day_ms = w.day_ms AND p.cell_id = w.cell_id
        AND p.org_id <> '' AND p.at_ms = w.at_ms AND p.verdict <> 'pruned'
    WHERE w.org_id = '' AND w.verdict = 'compared'
    GROUP BY w.cell_id, w.day_ms, w.ours_s, w.theirs_s, w.withdrawn_s, w.off_s, w.ppm) q
WHERE COALESCE(q.ours_s, -1) <> q.ours OR COALESCE(q.theirs_s, -1) <> q.theirs OR q.withdrawn_s <> q.withdrawn
    OR COALESCE(q.off_s, -1) <> q.off OR COALESCE(q.ppm, -1) <> CASE WHEN q.off = 0 THEN 0
        WHEN q.off > 4000000000000 OR q.most = 0 THEN q.ppm ELSE (q.off * 1000000 + q.most - 1) / q.most END

-- name: parity_line
-- A line's verdict follows from its two sides. `off_s` is the sum of the differences of all sizes, and `most` is the
-- sum of the larger sides. NULL is unknown.
SELECT 'parity_line' AS what, {nowhere}, p.cell_id, p.day_ms, p.org_id AS its_org, p.ours_s, p.theirs_s, p.off_s, p.ppm,
    p.verdict
FROM (SELECT x.*, COALESCE(x.ours_s, 0) AS here, COALESCE(x.theirs_s, 0) AS there,
        (COALESCE(x.ours_s, 0) + COALESCE(x.theirs_s, 0) + x.off_s) / 2 AS most FROM parity_checks x) p
WHERE CASE p.verdict
    WHEN 'compared' THEN p.org_id <> ''
    WHEN 'unread' THEN p.org_id <> '' OR COALESCE(p.ours_s, p.theirs_s, p.off_s, p.ppm) IS NOT NULL
    WHEN 'pruned' THEN p.org_id = '' OR COALESCE(p.ours_s, p.off_s, p.ppm) IS NOT NULL
    WHEN 'only_here' THEN p.org_id = '' OR COALESCE(p.theirs_s, p.off_s, p.ppm) IS NOT NULL OR p.here = 0
    WHEN 'only_there' THEN p.org_id = '' OR COALESCE(p.ours_s, p.off_s, p.ppm) IS NOT NULL OR p.there = 0
    WHEN 'withdrawn' THEN p.org_id = '' OR p.withdrawn_s <= 0
    WHEN 'equal' THEN p.org_id = '' OR COALESCE(p.off_s, -1) <> 0
    WHEN 'within' THEN p.org_id = '' OR COALESCE(p.off_s, 0) = 0
    WHEN 'differs' THEN p.org_id = '' OR COALESCE(p.off_s, 0) = 0
    ELSE 1 = 1 END
    OR (p.org_id <> '' AND (p.off_s < ABS(p.here - p.there) OR p.off_s > p.here + p.there
        OR (p.off_s IS NULL) <> (p.ppm IS NULL) OR p.ppm <> CASE WHEN p.off_s = 0 THEN 0
            WHEN p.off_s > 4000000000000 OR p.most = 0 THEN p.ppm ELSE (p.off_s * 1000000 + p.most - 1) / p.most END))

-- name: parity_stray
-- A line belongs to a check of the whole cell, and is not newer than that check. A day is compared only once it is
-- over.
SELECT 'parity_time' AS what, {nowhere}, p.cell_id, p.day_ms, p.org_id AS its_org, p.at_ms, w.at_ms AS checked_ms
FROM parity_checks p LEFT JOIN parity_checks w ON w.day_ms = p.day_ms AND w.cell_id = p.cell_id AND w.org_id = ''
WHERE w.at_ms IS NULL OR p.at_ms > w.at_ms OR p.day_ms % 86400000 <> 0 OR p.at_ms < p.day_ms + 86400000

-- name: bill_unimported
SELECT 'bill_without_import' AS what, {nowhere}, b.number, b.vendor, b.service, b.day_ms FROM vendor_bills b
WHERE NOT EXISTS (SELECT 1 FROM vendor_imports i WHERE i.number = b.number)

-- name: bill_unfinal
-- A final day of a vendor is not replaced by a day that is not final.
SELECT 'bill_final' AS what, {nowhere}, b.number, b.vendor, b.day_ms FROM vendor_bills b
WHERE NOT b.is_final AND EXISTS (SELECT 1 FROM vendor_bills x WHERE x.vendor = b.vendor AND x.day_ms = b.day_ms
    AND x.is_final AND x.number <= b.number)

-- name: imports_gap
-- Files are numbered without gaps, each number once.
SELECT 'import_gap' AS what, {nowhere}, COUNT(*) AS files, MAX(number) AS highest FROM vendor_imports
HAVING COUNT(*) <> COALESCE(MAX(number), 0)

-- name: actions [postgresql]
(SELECT action, target, CAST(details AS json) AS said FROM operator_actions) x

-- name: actions [sqlite]
(SELECT action, target, details AS said FROM operator_actions) x


-- name: said_sums [postgresql]
CROSS JOIN LATERAL json_each_text(x.said -> 'billed_micro') e

-- name: said_sums [sqlite]
CROSS JOIN json_each(x.said, '$.billed_micro') e

-- name: import_otherwise
-- The lines of a file and their sums by currency agree with its action. Sums are not claimed for actions that did not
-- record them.
SELECT 'import_audit_mismatch' AS what, {nowhere}, q.thing, q.kept, q.said
FROM (SELECT COALESCE(k.thing, s.thing) AS thing, k.kept, s.said FROM ({imported}) k FULL JOIN ({said_imported}) s
    ON s.thing = k.thing) q
WHERE COALESCE(q.kept, '') <> COALESCE(q.said, '')
    AND (q.thing NOT LIKE 'money of %' OR EXISTS (SELECT 1 FROM {actions} {said_sums}
        WHERE x.action = 'vendor_import' AND q.thing LIKE 'money of ' || x.target || ' %'))

-- name: imported
SELECT 'lines of ' || i.import_id AS thing, CAST((SELECT COUNT(*) FROM vendor_bills b WHERE b.number = i.number) AS TEXT)
    AS kept FROM vendor_imports i
UNION ALL SELECT 'money of ' || i.import_id || ' in ' || b.currency, CAST(CAST(SUM(b.billed_micro) AS BIGINT) AS TEXT)
FROM vendor_imports i JOIN vendor_bills b ON b.number = i.number GROUP BY i.import_id, b.currency

-- name: said_imported
SELECT 'lines of ' || x.target AS thing, CAST(x.said ->> 'lines' AS TEXT) AS said
FROM {actions} WHERE x.action = 'vendor_import'
UNION ALL SELECT 'money of ' || x.target || ' in ' || e.key, CAST(e.value AS TEXT)
FROM {actions} {said_sums} WHERE x.action = 'vendor_import'

-- name: units_unrecorded
-- The cost of usage at a vendor is the recorded cost.
SELECT 'units_audit_mismatch' AS what, {nowhere}, q.thing, q.kept, q.said
FROM (SELECT COALESCE(k.thing, s.thing) AS thing, k.kept, s.said FROM ({units}) k FULL JOIN ({said_units}) s
    ON s.thing = k.thing) q
WHERE COALESCE(q.kept, '') <> COALESCE(q.said, '')

-- name: units
SELECT v.feature || ' at ' || v.vendor || ', ' || v.service || ' from ' || v.start_ms AS thing, v.units || ' ' || v.unit
    || ' and ' || v.money_micro || ' ' || v.currency || ' for ' || v.per_quantity AS kept FROM vendor_units v

-- name: said_units
SELECT x.target || ' at ' || (x.said ->> 'vendor') || ', ' || (x.said ->> 'service') || ' from '
    || (x.said ->> 'start_ms') AS thing, (x.said ->> 'units') || ' ' || (x.said ->> 'unit') || ' and '
    || (x.said ->> 'money_micro') || ' ' || (x.said ->> 'currency') || ' for ' || (x.said ->> 'per_quantity') AS said
FROM {actions} WHERE x.action = 'vendor_set'
