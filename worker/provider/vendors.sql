-- What features cost at vendors, and what those billed.

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
-- Of two files at once one has the number; the other one waits for it and adds nothing.
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
