ALTER TABLE reservations ADD COLUMN hold TEXT NOT NULL DEFAULT 'wallet'
    CONSTRAINT reservations_hold CHECK (
        hold = 'wallet' OR (hold IN ('local', 'declared') AND settled_by = 'receipt' AND payer_number IS NULL));

CREATE INDEX reservations_held_by_org ON reservations (org_id, expires_ms) WHERE state = 'held' AND hold <> 'wallet';

CREATE TABLE run_usage (
    reservation {id} NOT NULL,
    number TEXT NOT NULL,
    feature {id} NOT NULL,
    quantity BIGINT NOT NULL,
    amount_micro BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (reservation, number, feature),
    CONSTRAINT run_usage_sane CHECK (quantity >= 0 AND amount_micro >= 0)
);

CREATE TABLE run_samples (
    sample_id {id} NOT NULL,
    reservation {id} NOT NULL,
    number TEXT NOT NULL,
    feature {id} NOT NULL,
    org_id {id} NOT NULL,
    memory_mb BIGINT NOT NULL,
    interval_s BIGINT NOT NULL,
    base_units BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    PRIMARY KEY (sample_id),
    CONSTRAINT run_samples_sane CHECK (base_units > 0 AND base_units IN (interval_s, interval_s * memory_mb))
);

CREATE INDEX run_samples_by_run ON run_samples (reservation, number, feature)
