CREATE TABLE pools (
    pool {id} NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (pool)
);

CREATE TABLE payers (
    payer {id} NOT NULL,
    org_id {id} NOT NULL,
    number INTEGER NOT NULL,
    allowed BOOLEAN NOT NULL,
    limit_micro BIGINT,
    since_ms BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (payer, org_id, number),
    CONSTRAINT payers_sane CHECK (limit_micro IS NULL OR (allowed AND limit_micro > 0))
);

CREATE INDEX payers_by_org ON payers (org_id);

ALTER TABLE ledger_lots ADD COLUMN pool {id};

CREATE INDEX ledger_lots_of_pool ON ledger_lots (pool, expires_ms) WHERE pool IS NOT NULL;

CREATE INDEX ledger_entries_returned ON ledger_entries (to_account, ts) WHERE kind = 'expiry' AND to_account <> 'breakage';

ALTER TABLE reservations ADD COLUMN payer_number INTEGER;

CREATE INDEX reservations_by_payer ON reservations (customer_id, org_id, payer_number) WHERE payer_number IS NOT NULL
