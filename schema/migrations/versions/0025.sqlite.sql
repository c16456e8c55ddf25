-- SQLite changes no constraint of a table: a new one takes the name. Views and triggers follow the name.
PRAGMA legacy_alter_table = ON;

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
    CONSTRAINT ledger_entries_kind CHECK (kind IN ('usage', 'grant', 'run', 'expiry', 'tier')),
    CONSTRAINT ledger_entries_lot CHECK (
        CASE WHEN lot IS NULL THEN kind <> 'expiry' ELSE kind IN ('grant', 'expiry') END),
    CONSTRAINT ledger_entries_two_sides CHECK (from_account <> to_account),
    CONSTRAINT ledger_entries_usage_says_what CHECK (kind <> 'usage' OR (feature IS NOT NULL AND quantity IS NOT NULL)),
    CONSTRAINT ledger_entries_run_says_which CHECK (kind <> 'run' OR reservation IS NOT NULL)
);

INSERT INTO ledger_entries_new (
    "key", kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason, reservation, lot)
SELECT "key", kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason, reservation, lot
FROM ledger_entries ORDER BY rowid;

DROP TABLE ledger_entries;

ALTER TABLE ledger_entries_new RENAME TO ledger_entries;

PRAGMA legacy_alter_table = OFF;

CREATE INDEX ledger_entries_by_from ON ledger_entries (from_account, ts);

CREATE INDEX ledger_entries_grants ON ledger_entries (to_account) WHERE kind = 'grant';

CREATE INDEX ledger_entries_by_reservation ON ledger_entries (reservation) WHERE reservation IS NOT NULL;

CREATE INDEX ledger_entries_by_lot ON ledger_entries (lot) WHERE lot IS NOT NULL
