-- Ids of this database among the words of a report.

-- name: known
-- An id that is the name of a feature, a type of events or a tier as well is a public word.
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
) found
EXCEPT SELECT feature FROM mappings
EXCEPT SELECT event_type FROM event_types
EXCEPT SELECT tier FROM tiers
