DELETE FROM ledger_accounts WHERE kind <> 'wallet';

-- The constraint on the kind goes with its column.
ALTER TABLE ledger_accounts DROP COLUMN kind,
    ADD COLUMN held_micro BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN overdraft_micro BIGINT DEFAULT 0 NOT NULL,
    ADD COLUMN next_due_ms BIGINT,
    ADD CONSTRAINT ledger_accounts_sane CHECK (held_micro >= 0 AND overdraft_micro >= 0);

ALTER TABLE ledger_entries ADD COLUMN reservation TEXT COLLATE "C",
    ADD COLUMN lot TEXT COLLATE "C",
    DROP CONSTRAINT ledger_entries_kind,
    ADD CONSTRAINT ledger_entries_kind CHECK (kind IN ('usage', 'grant', 'run', 'expiry')),
    ADD CONSTRAINT ledger_entries_lot CHECK (
        CASE WHEN lot IS NULL THEN kind <> 'expiry' ELSE kind IN ('grant', 'expiry') END),
    ADD CONSTRAINT ledger_entries_run_says_which CHECK (kind <> 'run' OR reservation IS NOT NULL);

CREATE INDEX ledger_entries_by_reservation ON ledger_entries (reservation) WHERE reservation IS NOT NULL;

CREATE INDEX ledger_entries_by_lot ON ledger_entries (lot) WHERE lot IS NOT NULL;

ALTER TABLE projections ADD COLUMN held_micro BIGINT;

ALTER TABLE ledger_plans ADD COLUMN hold_factor_ppm BIGINT DEFAULT 1000000 NOT NULL CHECK (hold_factor_ppm > 0);

ALTER TABLE ledger_plans ADD COLUMN unknown_hold_micro BIGINT CHECK (unknown_hold_micro > 0);

ALTER TABLE ledger_plans ADD COLUMN most_hold_micro BIGINT CHECK (most_hold_micro > 0);

ALTER TABLE ledger_plans ADD COLUMN most_held_micro BIGINT CHECK (most_held_micro > 0);

ALTER TABLE ledger_plans ADD COLUMN holds_halt BOOLEAN DEFAULT true NOT NULL;

CREATE TABLE run_blocks (
    org_id TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (org_id, kind, name),
    CONSTRAINT run_blocks_kind CHECK (kind IN ('project', 'action'))
);

CREATE TABLE reservations (
    reservation TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    customer_id TEXT COLLATE "C" NOT NULL,
    project TEXT COLLATE "C",
    subject TEXT COLLATE "C",
    action TEXT COLLATE "C",
    estimate TEXT,
    amount_micro BIGINT NOT NULL,
    drawn_micro BIGINT DEFAULT 0 NOT NULL,
    state TEXT NOT NULL,
    overage TEXT NOT NULL,
    accepted_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    ended_by TEXT,
    ended_reason TEXT,
    fingerprint TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (reservation),
    CONSTRAINT reservations_state CHECK (state IN ('held', 'settled', 'released', 'expired')),
    CONSTRAINT reservations_overage CHECK (overage IN ('charge', 'cap', 'refuse')),
    CONSTRAINT reservations_sane CHECK (amount_micro > 0 AND drawn_micro >= 0 AND expires_ms > accepted_ms),
    CONSTRAINT reservations_end CHECK ((state = 'held') = (ended_ms IS NULL))
);

CREATE INDEX reservations_held_by_wallet ON reservations (customer_id, expires_ms) WHERE state = 'held';

CREATE INDEX reservations_held_by_end ON reservations (expires_ms) WHERE state = 'held';

CREATE INDEX reservations_by_org ON reservations (org_id, accepted_ms)
