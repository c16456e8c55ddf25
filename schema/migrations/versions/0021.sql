ALTER TABLE reservations ADD COLUMN supplier {id};

CREATE INDEX reservations_by_supplier ON reservations (supplier, state) WHERE supplier IS NOT NULL;

CREATE TABLE supplier_terms (
    supplier {id} NOT NULL,
    revision INTEGER NOT NULL,
    share_ppm BIGINT NOT NULL,
    hold_ms BIGINT NOT NULL,
    threshold_micro BIGINT NOT NULL,
    takes_clawbacks BOOLEAN NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (supplier, revision),
    CONSTRAINT supplier_terms_sane CHECK (share_ppm BETWEEN 0 AND 1000000 AND threshold_micro >= 0 AND hold_ms >= 0),
    CONSTRAINT supplier_terms_hold CHECK (takes_clawbacks OR hold_ms >= 3024000000)
);

CREATE TABLE settlements (
    reservation {id} NOT NULL,
    supplier {id} NOT NULL,
    revision INTEGER NOT NULL,
    gross_micro BIGINT NOT NULL,
    share_ppm BIGINT NOT NULL,
    net_micro BIGINT NOT NULL,
    settled_ms BIGINT NOT NULL,
    hold_until_ms BIGINT NOT NULL,
    threshold_micro BIGINT NOT NULL,
    takes_clawbacks BOOLEAN NOT NULL,
    PRIMARY KEY (reservation),
    CONSTRAINT settlements_sane CHECK (net_micro BETWEEN 0 AND gross_micro),
    CONSTRAINT settlements_hold CHECK (hold_until_ms >= settled_ms
        AND (takes_clawbacks OR hold_until_ms >= settled_ms + 3024000000))
);

CREATE INDEX settlements_by_supplier ON settlements (supplier, settled_ms);

CREATE TABLE settlement_freezes (
    freeze_id {serial} NOT NULL,
    supplier {id} NOT NULL,
    reservation {id},
    from_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    ended_ms BIGINT,
    ended_by TEXT,
    ended_reason TEXT,
    PRIMARY KEY (freeze_id),
    CONSTRAINT settlement_freezes_end CHECK (ended_ms IS NULL OR ended_ms >= from_ms)
);

CREATE UNIQUE INDEX settlement_freezes_one ON settlement_freezes (reservation) WHERE ended_ms IS NULL;

CREATE UNIQUE INDEX settlement_freezes_whole ON settlement_freezes (supplier)
    WHERE ended_ms IS NULL AND reservation IS NULL;

CREATE INDEX settlement_freezes_by_supplier ON settlement_freezes (supplier, from_ms);

CREATE TABLE settlement_reversals (
    reversal {id} NOT NULL,
    reservation {id} NOT NULL,
    amount_micro BIGINT NOT NULL,
    is_clawback BOOLEAN NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (reversal),
    CONSTRAINT settlement_reversals_sane CHECK (amount_micro > 0)
);

CREATE INDEX settlement_reversals_by_run ON settlement_reversals (reservation);

CREATE TABLE payouts (
    payout {id} NOT NULL,
    supplier {id} NOT NULL,
    period TEXT NOT NULL,
    released_micro BIGINT NOT NULL,
    carried_micro BIGINT NOT NULL,
    total_micro BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (payout),
    CONSTRAINT payouts_sane CHECK (carried_micro <= 0 AND total_micro = released_micro + carried_micro
        AND total_micro > 0),
    CONSTRAINT payouts_one_a_period UNIQUE (supplier, period)
);

CREATE TABLE payout_lines (
    line {id} NOT NULL,
    payout {id} NOT NULL,
    reservation {id} NOT NULL,
    reversal {id},
    amount_micro BIGINT NOT NULL,
    PRIMARY KEY (line),
    CONSTRAINT payout_lines_sane CHECK (CASE WHEN reversal IS NULL
        THEN line = 'settlement:' || reservation AND amount_micro >= 0
        ELSE line = 'reversal:' || reversal AND amount_micro < 0 END)
);

CREATE INDEX payout_lines_by_payout ON payout_lines (payout, line)
