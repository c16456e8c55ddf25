-- SQLite changes no constraint of a table: a new one takes the name. Views and triggers follow the name.
PRAGMA legacy_alter_table = ON;

CREATE TABLE ledger_accounts_new (
    account_id TEXT NOT NULL,
    balance_micro BIGINT DEFAULT 0 NOT NULL,
    "plan" TEXT,
    held_micro BIGINT DEFAULT 0 NOT NULL,
    overdraft_micro BIGINT DEFAULT 0 NOT NULL,
    next_due_ms BIGINT,
    PRIMARY KEY (account_id),
    CONSTRAINT ledger_accounts_sane CHECK (held_micro >= 0 AND overdraft_micro >= 0)
);

INSERT INTO ledger_accounts_new (account_id, balance_micro, "plan")
SELECT account_id, balance_micro, "plan" FROM ledger_accounts WHERE kind = 'wallet';

DROP TABLE ledger_accounts;

ALTER TABLE ledger_accounts_new RENAME TO ledger_accounts;

CREATE TABLE ledger_entries_new (
    "key" TEXT NOT NULL,
    kind TEXT NOT NULL,
    from_account TEXT NOT NULL,
    to_account TEXT NOT NULL,
    amount_micro BIGINT NOT NULL,
    feature TEXT,
    quantity BIGINT,
    ts BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    reservation TEXT,
    lot TEXT,
    PRIMARY KEY ("key"),
    CONSTRAINT ledger_entries_kind CHECK (kind IN ('usage', 'grant', 'run', 'expiry')),
    CONSTRAINT ledger_entries_lot CHECK (
        CASE WHEN lot IS NULL THEN kind <> 'expiry' ELSE kind IN ('grant', 'expiry') END),
    CONSTRAINT ledger_entries_two_sides CHECK (from_account <> to_account),
    CONSTRAINT ledger_entries_usage_says_what CHECK (kind <> 'usage' OR (feature IS NOT NULL AND quantity IS NOT NULL)),
    CONSTRAINT ledger_entries_run_says_which CHECK (kind <> 'run' OR reservation IS NOT NULL)
);

INSERT INTO ledger_entries_new (
    "key", kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason)
SELECT "key", kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason
FROM ledger_entries ORDER BY rowid;

DROP TABLE ledger_entries;

ALTER TABLE ledger_entries_new RENAME TO ledger_entries;

PRAGMA legacy_alter_table = OFF;

CREATE INDEX ledger_entries_by_from ON ledger_entries (from_account, ts);

CREATE INDEX ledger_entries_grants ON ledger_entries (to_account) WHERE kind = 'grant';

CREATE INDEX ledger_entries_by_reservation ON ledger_entries (reservation) WHERE reservation IS NOT NULL;

CREATE INDEX ledger_entries_by_lot ON ledger_entries (lot) WHERE lot IS NOT NULL;

ALTER TABLE projections ADD COLUMN held_micro BIGINT;

ALTER TABLE ledger_plans ADD COLUMN hold_factor_ppm BIGINT DEFAULT 1000000 NOT NULL CHECK (hold_factor_ppm > 0);

ALTER TABLE ledger_plans ADD COLUMN unknown_hold_micro BIGINT CHECK (unknown_hold_micro > 0);

ALTER TABLE ledger_plans ADD COLUMN most_hold_micro BIGINT CHECK (most_hold_micro > 0);

ALTER TABLE ledger_plans ADD COLUMN most_held_micro BIGINT CHECK (most_held_micro > 0);

ALTER TABLE ledger_plans ADD COLUMN holds_halt BOOLEAN DEFAULT 1 NOT NULL;

CREATE TABLE run_blocks (
    org_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (org_id, kind, name),
    CONSTRAINT run_blocks_kind CHECK (kind IN ('project', 'action'))
);

CREATE TABLE reservations (
    reservation TEXT NOT NULL,
    org_id TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    project TEXT,
    subject TEXT,
    action TEXT,
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
