-- Our accepted charges, for `reconcile`. Quantities are base units; a day is UTC's.
--
-- Guarantee: if only a balance shows a charge (adopted as `drawn`), the provider does not have an event of it. So it is
-- left out of comparisons of events, and counted in comparisons of balances. If a person charged by hand, the events
-- may include the charge or not. A credit by hand is not among the events. If such a credit counted, it would hide a
-- loss of the same amount on its day.

-- name: is_drawn
EXISTS (SELECT 1 FROM adoptions x WHERE {is_of_push} AND x.kind = 'drawn')

-- name: sums
CAST(SUM(CASE WHEN p.state = 'accepted' AND NOT {is_drawn} AND NOT (p.by_hand AND p.sent_qty < 0)
        THEN p.sent_qty ELSE 0 END) AS BIGINT) AS accepted,
    CAST(SUM(CASE WHEN p.state = 'accepted' AND p.by_hand AND p.sent_qty > 0 THEN p.sent_qty ELSE 0 END) AS BIGINT)
        AS by_hand,
    CAST(SUM(CASE WHEN p.state = 'shadow' THEN p.sent_qty ELSE 0 END) AS BIGINT) AS shadow,
    SUM(CASE WHEN p.state IN ('due', 'queued', 'in_doubt') THEN 1 ELSE 0 END) AS unsettled,
    MAX(CASE WHEN p.state = 'accepted' THEN COALESCE(p.settled_ms, p.sealed_at_ms) ELSE 0 END) AS settled_ms

-- name: ours
-- Days with a push that was settled since the customer's mark, or since :since_ms if that is earlier. Without a mark,
-- :first_ms counts. A voided push may have been charged, unless the provider refused each attempt. So a day with only
-- such pushes is compared, too. If only voided pushes were sent under other terms, the other pushes of the day can be
-- compared.
SELECT p.window_ms - p.window_ms % 86400000 AS day_ms, p.org_id, p.customer_id, p.feature,
    CASE WHEN p.window_ms >= :live_from_ms THEN 1 ELSE 0 END AS live,
    MAX(COALESCE(p.settled_ms, p.sealed_at_ms)) AS touched_ms, MIN(a.start_ms) AS begins_ms,
    MAX(COALESCE(a.end_ms, 9000000000000000)) AS ends_ms, COALESCE(
        MIN(CASE WHEN p.state <> 'voided' THEN COALESCE(p.first_attempt_ms, p.sealed_at_ms) END),
        MIN(COALESCE(p.first_attempt_ms, p.sealed_at_ms))) AS sent_ms,
    {sums}
FROM pushes p JOIN assignments a ON a.org_id = p.org_id AND a.start_ms <= p.window_ms
    AND (a.end_ms IS NULL OR p.window_ms < a.end_ms)
LEFT JOIN compared_marks m ON m.provider = :provider AND m.customer_id = p.customer_id
WHERE p.provider = :provider AND p.window_ms >= :from_ms AND p.window_ms < :to_ms
    AND (:org_id = '' OR p.org_id = :org_id) AND p.state <> 'carried'
    AND (p.state <> 'voided' OR EXISTS (SELECT 1 FROM attempts x WHERE {is_of_push}
        AND (x.outcome IS NULL OR x.outcome NOT IN ('retry', 'rejected'))))
    AND NOT EXISTS (SELECT 1 FROM folded_pushes f WHERE f.day_ms = p.window_ms - p.window_ms % 86400000
        AND f.org_id = p.org_id AND f.provider = p.provider AND f.customer_id = p.customer_id AND f.feature = p.feature)
GROUP BY 1, 2, 3, 4, 5
HAVING MAX(COALESCE(p.settled_ms, p.sealed_at_ms)) >= MIN(CASE WHEN m.compared_ms IS NULL THEN :first_ms
    WHEN m.compared_ms < :since_ms THEN m.compared_ms ELSE :since_ms END)
ORDER BY 1, 2, 3, 4, 5

-- name: folded
-- Days of lost spans with folded pushes. They are not compared again, because `verify` proves their sums.
SELECT DISTINCT f.org_id, f.customer_id, f.day_ms FROM losses l
JOIN folded_pushes f ON f.day_ms > l.from_ms - 86400000 AND f.day_ms < l.until_ms
WHERE f.provider = :provider AND (:org_id = '' OR f.org_id = :org_id) AND l.at_ms >= :since_ms

-- name: is_of_line
-- A line: an organisation's feature on a day, or in a part of it.
p.provider = :provider AND p.window_ms >= :from_ms AND p.window_ms < :to_ms AND p.org_id = :org_id
    AND p.customer_id = :customer_id AND p.feature = :feature

-- name: by_window
-- The query also reads the last revision, which shows if a push was sealed or settled meanwhile. A voided push may have
-- been charged. If its window does not have another push, the charge is ours nevertheless.
SELECT p.window_ms, {sums}, COUNT(*) AS pushes, MAX(p.revision) AS last,
    (SELECT o.floor_ms FROM orgs o WHERE o.org_id = :org_id) AS floor_ms FROM pushes p
WHERE {is_of_line} AND p.state <> 'carried'
GROUP BY 1 ORDER BY 1

-- name: accepted
-- If a push was adopted under a key of ours, its date at the provider is that of the push that had the key before.
SELECT p.*, COALESCE((SELECT MIN(o.revision) FROM pushes o WHERE o.window_ms = p.window_ms AND o.org_id = p.org_id
    AND o.feature = p.feature AND COALESCE(o.wire_key, o.key) = p.wire_key), p.revision) AS dated_as,
    {arrivals} AS arrivals, (SELECT o.floor_ms FROM orgs o WHERE o.org_id = p.org_id) AS floor_ms,
    EXISTS (SELECT 1 FROM attempts x WHERE {is_of_push} AND x.outcome = 'accepted') AS answered
FROM pushes p
WHERE {is_of_line} AND p.state = 'accepted' AND NOT {is_drawn}
    AND (p.attempts > 0 OR p.wire_key IS NOT NULL) AND NOT p.by_hand ORDER BY p.window_ms, p.revision

-- name: sent_again
-- Pushes that may have extra draws without an event. Such pushes may have arrived more than once, or were voided
-- without an event but may have arrived. Pushes below the floor are left out, because they cannot be given back.
SELECT s.*, CASE WHEN s.state = 'accepted' THEN s.arrived - 1 ELSE s.arrived END * s.sent_qty AS may_be
FROM (SELECT p.*, (SELECT COUNT(*) FROM attempts x WHERE {is_of_push}
        AND (x.outcome IS NULL OR x.outcome NOT IN ('retry', 'rejected'))) AS arrived
    FROM pushes p
    WHERE p.provider = :provider AND p.customer_id = :customer_id AND p.feature IN :features AND p.sent_qty > 0
        AND (p.state = 'accepted' AND p.attempts > 1 OR p.state = 'voided' AND p.attempts > 0)
        AND COALESCE(p.settled_ms, p.sealed_at_ms) >= :since_ms AND p.window_ms >= (SELECT o.floor_ms FROM orgs o
            WHERE o.org_id = p.org_id)
        AND NOT EXISTS (SELECT 1 FROM adoptions x WHERE x.window_ms = p.window_ms AND x.org_id = p.org_id
            AND x.feature = p.feature AND x.kind = 'drawn')) s
WHERE s.arrived > CASE WHEN s.state = 'accepted' THEN 1 ELSE 0 END
ORDER BY s.window_ms, s.revision

-- name: newest_charges
-- Recent charges above the floor that our own calls made, the newest first. If a balance did not show a charge, and the
-- charge was taken back for that reason, the query leaves it out.
SELECT p.* FROM pushes p
WHERE p.provider = :provider AND p.customer_id = :customer_id AND p.feature IN :features AND p.state = 'accepted'
    AND p.sent_qty <> 0 AND p.first_attempt_ms IS NOT NULL AND NOT p.by_hand AND p.settled_ms >= :since_ms
    AND p.window_ms >= (SELECT o.floor_ms FROM orgs o WHERE o.org_id = p.org_id)
    AND NOT EXISTS (SELECT 1 FROM adoptions x JOIN pushes q ON q.window_ms = x.window_ms AND q.org_id = x.org_id
        AND q.feature = x.feature AND q.revision = x.revision
        WHERE x.window_ms = p.window_ms AND x.org_id = p.org_id AND x.feature = p.feature AND x.kind = 'drawn'
            AND q.sent_qty = -p.sent_qty AND q.sealed_at_ms >= p.settled_ms)
ORDER BY p.settled_ms DESC, p.window_ms DESC, p.feature, p.revision DESC LIMIT :at_most

-- name: charges_since
-- The charges since a time. `answered`: a response of the provider proved the charge.
SELECT p.feature, p.sent_qty, p.first_attempt_ms, p.settled_ms, p.sealed_at_ms, p.credit_cost,
    EXISTS (SELECT 1 FROM attempts x WHERE {is_of_push} AND x.outcome = 'accepted') AS answered
FROM pushes p
WHERE p.provider = :provider AND p.customer_id = :customer_id AND p.feature IN :features AND p.state = 'accepted'
    AND p.sent_qty > 0 AND p.first_attempt_ms IS NOT NULL AND NOT p.by_hand AND p.settled_ms >= :since_ms
LIMIT :at_most

-- name: unanswered_since
-- Charges since a time that may have been made without a response. Such charges may have used up parts of balances that
-- reads never showed.
SELECT p.feature, p.sent_qty, p.first_attempt_ms, p.settled_ms, p.sealed_at_ms, p.credit_cost FROM pushes p
WHERE p.provider = :provider AND p.customer_id = :customer_id AND p.feature IN :features AND p.sent_qty > 0
    AND p.first_attempt_ms IS NOT NULL AND p.settled_ms >= :since_ms
    AND (EXISTS (SELECT 1 FROM attempts x WHERE {is_of_push}
            AND (x.outcome IS NULL OR x.outcome IN ('unknown', 'queued')))
        OR p.state = 'accepted' AND NOT EXISTS (SELECT 1 FROM attempts x WHERE {is_of_push} AND x.outcome = 'accepted'))
LIMIT :at_most

-- name: last_push
SELECT * FROM pushes WHERE window_ms = :window_ms AND org_id = :org_id AND feature = :feature
    AND provider = :provider AND customer_id = :customer_id ORDER BY revision DESC LIMIT 1

-- name: hold_settlement
SELECT state, by_hand, attempts, settled_ms FROM pushes WHERE {this_push} {for_update}

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: bills
SELECT 1 FROM assignments WHERE provider = :provider AND end_ms IS NULL LIMIT 1

-- name: lost_spans
-- Each assignment to a customer of the provider that a lost span may have billed.
SELECT a.org_id, a.customer_id, CASE WHEN a.start_ms > l.from_ms THEN a.start_ms ELSE l.from_ms END AS from_ms,
    CASE WHEN a.end_ms < l.until_ms THEN a.end_ms ELSE l.until_ms END AS until_ms
FROM losses l JOIN assignments a ON a.start_ms < l.until_ms AND (a.end_ms IS NULL OR a.end_ms > l.from_ms)
WHERE a.provider = :provider AND a.customer_id <> '' AND (:org_id = '' OR a.org_id = :org_id) AND l.at_ms >= :since_ms
ORDER BY a.org_id, a.start_ms, l.number

-- name: pushed_then
-- The features and days with a known push, settled at any time.
SELECT DISTINCT p.org_id, p.customer_id, p.feature, d.day_ms
FROM {rows :days (org_id text, day_ms bigint)} d JOIN pushes p ON p.org_id = d.org_id AND p.window_ms >= d.day_ms
    AND p.window_ms < d.day_ms + :day_length_ms
WHERE p.provider = :provider AND p.state NOT IN ('voided', 'carried')

-- name: keep
INSERT INTO reconciliations (day_ms, org_id, provider, customer_id, feature, ours_qty, theirs_qty, verdict, at_ms)
VALUES (:day_ms, :org_id, :provider, :customer_id, :feature, :ours_qty, :theirs_qty, :verdict, :at_ms)
ON CONFLICT (day_ms, org_id, provider, customer_id, feature) DO UPDATE SET ours_qty = excluded.ours_qty,
    theirs_qty = excluded.theirs_qty, verdict = excluded.verdict, at_ms = excluded.at_ms

-- The marks up to which accepted pushes were compared, by provider and customer. The mark of the provider has an empty
-- customer.

-- name: provider_mark
SELECT compared_ms FROM compared_marks WHERE provider = :provider AND customer_id = ''

-- name: is_left_out
-- A start without an open day means that the customer's balance was not compared.
(compared_marks.open_days = 0 AND compared_marks.open_since_ms IS NOT NULL)

-- name: left_out
SELECT customer_id, said FROM compared_marks WHERE provider = :provider AND {is_left_out}

-- name: keep_mark
-- A mark never moves back, because all days before it were compared once. If runs leave a balance out,
-- `open_since_ms` is the time of the first such run.
INSERT INTO compared_marks (provider, customer_id, compared_ms, open_days, open_since_ms, said, at_ms)
SELECT :provider, m.customer_id, m.compared_ms, m.open_days, m.open_since_ms, m.said, :now_ms
FROM {rows :marks (customer_id text, compared_ms bigint, open_days bigint, open_since_ms bigint, said text)} m WHERE 1 = 1
ON CONFLICT (provider, customer_id) DO UPDATE SET open_days = excluded.open_days,
    open_since_ms = CASE WHEN {is_left_out} AND excluded.open_days = 0 AND excluded.open_since_ms IS NOT NULL
        THEN compared_marks.open_since_ms ELSE excluded.open_since_ms END,
    said = excluded.said, at_ms = excluded.at_ms,
    compared_ms = CASE WHEN excluded.compared_ms > compared_marks.compared_ms THEN excluded.compared_ms
        ELSE compared_marks.compared_ms END

-- name: close_others
-- All days of the other customers are compared.
UPDATE compared_marks SET open_days = 0, open_since_ms = NULL, said = ''
WHERE provider = :provider AND customer_id <> '' AND open_since_ms IS NOT NULL AND at_ms < :now_ms
    AND customer_id NOT IN (SELECT customer_id FROM {rows :marks (customer_id text)} m)

-- name: marks_for_person
-- The customers with days that later runs cannot compare until a person acts.
SELECT m.provider, m.customer_id, m.open_since_ms, m.said, m.at_ms FROM compared_marks m
WHERE m.open_days > 0 AND m.said LIKE :needs_you AND (:org_id = '' OR EXISTS (SELECT 1 FROM assignments a
    WHERE a.org_id = :org_id AND a.provider = m.provider AND a.customer_id = m.customer_id))
ORDER BY m.provider, m.customer_id LIMIT :at_most {locked}

-- name: compared
-- The time when each line of a customer was compared.
SELECT org_id, feature, day_ms, at_ms FROM reconciliations
WHERE day_ms >= :from_ms AND provider = :provider AND customer_id = :customer_id

-- name: report_others
-- The days of the customer that another organisation must acknowledge. If a day is open for another reason, the next
-- comparison reports it again.
UPDATE compared_marks SET open_days = :open_days, open_since_ms = :open_since_ms, said = :said
WHERE provider = :provider AND customer_id = :customer_id

-- name: acknowledged
SELECT a.target, a.details FROM operator_actions a
WHERE a.target IN (SELECT org_id FROM {rows :orgs (org_id text)} r) AND a.action = :action
