-- Ids of this database among the words of a report.

-- name: known
-- Most of these tables lack a suitable index, so a scan reads each table once, as a whole. Only a scan that a person
-- starts takes this time. An id that is also the name of a feature, an event type or a tier is a public word.
WITH asked AS MATERIALIZED (SELECT word FROM {rows :words (word text)} r)
SELECT word FROM (
    SELECT a.word FROM asked a JOIN orgs o ON o.org_id = a.word
    UNION SELECT a.word FROM asked a JOIN assignments s ON s.customer_id = a.word
    UNION SELECT a.word FROM asked a JOIN ledger_accounts l ON l.account_id = 'wallet:' || a.word
    UNION SELECT a.word FROM asked a JOIN sandboxes b ON b.sandbox_id = a.word
    UNION SELECT a.word FROM asked a JOIN cells c ON c.cell_id = a.word
    UNION SELECT a.word FROM asked a JOIN usage_samples u ON u.id = a.word
    UNION SELECT a.word FROM asked a JOIN reservations v ON v.reservation = a.word
    UNION SELECT a.word FROM asked a JOIN reservations v ON v.subject = a.word
    UNION SELECT a.word FROM asked a JOIN usage_events e ON e.event_id = a.word
    UNION SELECT a.word FROM asked a JOIN usage_events e ON e.subject = a.word
    UNION SELECT a.word FROM asked a JOIN guard_uses g ON g.use_key = a.word
    UNION SELECT a.word FROM asked a JOIN settlement_reversals x ON x.reversal = a.word
    UNION SELECT a.word FROM asked a JOIN payouts p ON p.payout = a.word
    UNION SELECT a.word FROM asked a JOIN batches n ON n.batch = a.word
    UNION SELECT a.word FROM asked a JOIN hook_messages h ON h.message_id = a.word
    UNION SELECT a.word FROM asked a JOIN topups t ON t.topup = a.word
    UNION SELECT a.word FROM asked a JOIN topup_terms m ON m.customer_id = a.word
    UNION SELECT a.word FROM asked a JOIN usage_events e ON e.project = a.word
    UNION SELECT a.word FROM asked a JOIN reservations v ON v.project = a.word
    UNION SELECT a.word FROM asked a JOIN reservations v ON v.supplier = a.word
    UNION SELECT a.word FROM asked a JOIN backfill_events f ON f.event_id = a.word
    UNION SELECT a.word FROM asked a JOIN backfill_events f ON f.subject = a.word
    UNION SELECT a.word FROM asked a JOIN backfill_events f ON f.project = a.word
    UNION SELECT a.word FROM asked a JOIN ledger_lots l ON l.lot = a.word
    UNION SELECT a.word FROM asked a JOIN pools q ON q.pool = a.word
    UNION SELECT a.word FROM asked a JOIN topups t ON t.payment_id = a.word
    UNION SELECT a.word FROM asked a JOIN topup_terms m ON m.service_customer = a.word
    UNION SELECT a.word FROM asked a JOIN webhooks w ON w.event_id = a.word
    UNION SELECT a.word FROM asked a JOIN console_users i ON i.name = a.word
    UNION SELECT a.word FROM asked a JOIN my_sessions y ON y.person = a.word
    UNION SELECT a.word FROM asked a JOIN usage_samples u ON u.sandbox_id = a.word
    UNION SELECT a.word FROM asked a JOIN reservation_sandboxes z ON z.sandbox_id = a.word
    UNION SELECT a.word FROM asked a JOIN supplier_terms d ON d.supplier = a.word
    UNION SELECT a.word FROM asked a JOIN topups t ON t.service_customer = a.word
    UNION SELECT a.word FROM asked a JOIN run_blocks k ON k.name = a.word AND k.kind = 'project'
) found
EXCEPT SELECT feature FROM mappings
EXCEPT SELECT event_type FROM event_types
EXCEPT SELECT tier FROM tiers

-- The usage of organisations, for the public summary.

-- name: uses
-- Withdrawn events and those that cannot be billed do not count.
SELECT e.org_id, e.plan_key, e.event_type, e.ts - e.ts % 86400000 AS day_ms, COUNT(*) AS events,
    SUM(e.quantity) AS quantity
FROM usage_samples s JOIN usage_events e ON e.sample_id = s.id LEFT JOIN withdrawals w ON w.sample_id = e.sample_id
WHERE s.ts >= :from_ms AND s.ts < :to_ms AND s.memory_mb > {most_memory_mb} AND s.problem IS NULL AND w.sample_id IS NULL
GROUP BY 1, 2, 3, 4 LIMIT :at_most
