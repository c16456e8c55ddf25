-- Parts of customers' balances, granted once or by a plan.

-- name: known_parts
SELECT b.customer_id, b.balance, b.part, b.granted, b.ends_ms, b.plan, b.used, b.seen_ms
FROM {rows :customers (customer_id text)} c JOIN balance_parts b ON b.provider = :provider
    AND b.customer_id = c.customer_id

-- name: note_parts
INSERT INTO balance_parts (provider, customer_id, balance, part, granted, ends_ms, plan, used, seen_ms)
SELECT :provider, customer_id, balance, part, granted, ends_ms, plan, used, seen_ms
FROM {rows :parts (customer_id text, balance text, part text, granted text, ends_ms bigint, plan text, used text,
    seen_ms bigint)} r WHERE 1 = 1
ON CONFLICT (provider, customer_id, balance, part) DO UPDATE SET granted = excluded.granted,
    ends_ms = excluded.ends_ms, plan = excluded.plan, used = {newer_used}, seen_ms = excluded.seen_ms

-- name: newer_used [postgresql]
-- Another transaction may have stored a larger use since this transaction read the parts. A write that lowers the use
-- on purpose keeps the time at which the part was seen.
CASE WHEN excluded.seen_ms <> balance_parts.seen_ms AND excluded.seen_ms < balance_parts.seen_ms + :stale_ms
    AND CAST(balance_parts.used AS numeric) > CAST(excluded.used AS numeric)
THEN balance_parts.used ELSE excluded.used END

-- name: newer_used [sqlite]
excluded.used
