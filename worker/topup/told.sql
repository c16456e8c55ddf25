-- Top-ups that ended.

-- name: ended
-- With whom the wallet pays for now.
SELECT p.topup, p.customer_id, p.credits_micro, p.money_minor, p.currency, p.service, p.state, p.evidence, p.payment_id,
    t.blocked_ms, (SELECT MIN(a.org_id) FROM assignments a WHERE a.customer_id = p.customer_id
        AND a.start_ms <= :now_ms AND (a.end_ms IS NULL OR :now_ms < a.end_ms)) AS org_id
FROM topups p JOIN topup_terms t ON t.customer_id = p.customer_id
WHERE p.topup IN (SELECT topup FROM {rows :topups (topup text)} r)
    AND p.state IN ('credited', 'declined', 'needs_customer', 'given_up')
