-- Changes of automatic top-ups by people.

-- name: for_update [postgresql]
FOR UPDATE

-- name: for_update [sqlite]

-- name: terms
SELECT * FROM topup_terms WHERE customer_id = :customer_id {for_update}

-- name: set
INSERT INTO topup_terms (customer_id, threshold_micro, amount_micro, fill_to_micro, price_minor, currency, service,
    service_customer, most_minor, max_day, max_month, mode, at_ms, actor, reason)
VALUES (:customer_id, :threshold_micro, :amount_micro, :fill_to_micro, :price_minor, :currency, :service,
    :service_customer, :most_minor, :max_day, :max_month, :mode, :at_ms, :actor, :reason)
ON CONFLICT (customer_id) DO UPDATE SET threshold_micro = excluded.threshold_micro,
    amount_micro = excluded.amount_micro, fill_to_micro = excluded.fill_to_micro,
    price_minor = excluded.price_minor, currency = excluded.currency, service = excluded.service,
    service_customer = excluded.service_customer, most_minor = excluded.most_minor, max_day = excluded.max_day,
    max_month = excluded.max_month, mode = excluded.mode, at_ms = excluded.at_ms, actor = excluded.actor,
    reason = excluded.reason, declines = 0, wait_until_ms = NULL, blocked_ms = NULL, blocked_reason = NULL

-- name: set_mode
UPDATE topup_terms SET mode = :mode, at_ms = :at_ms, actor = :actor, reason = :reason WHERE customer_id = :customer_id

-- name: rearm_paid
UPDATE topup_terms SET declines = 0, wait_until_ms = NULL, blocked_ms = NULL, blocked_reason = NULL
WHERE customer_id = :customer_id AND (declines > 0 OR blocked_ms IS NOT NULL)

-- name: end_shadows
UPDATE topups SET ended_ms = :at_ms WHERE customer_id = :customer_id AND state = 'shadow' AND ended_ms IS NULL

-- name: switch
INSERT INTO topup_switch (one, stopped_ms, actor, reason)
VALUES (1, CAST(:stopped_ms AS BIGINT), :actor, :reason)
ON CONFLICT (one) DO UPDATE SET stopped_ms = excluded.stopped_ms, actor = excluded.actor, reason = excluded.reason

-- name: switched
SELECT stopped_ms, actor, reason FROM topup_switch WHERE stopped_ms IS NOT NULL

-- name: wallet_of
SELECT customer_id FROM topups WHERE topup = :topup

-- name: topup
SELECT * FROM topups WHERE topup = :topup {for_update}

-- name: resolve
UPDATE topups SET state = :state, payment_id = :payment_id, answer = :answer, evidence = :evidence,
    ended_ms = :at_ms, claim_owner = NULL
WHERE topup = :topup AND state = :was
