CREATE TABLE high_spenders (
    place INTEGER NOT NULL,
    customer_id {id} NOT NULL,
    used_micro BIGINT NOT NULL,
    from_ms BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (place),
    CONSTRAINT high_spenders_sane CHECK (place > 0 AND used_micro > 0 AND from_ms < at_ms)
);

CREATE INDEX ledger_accounts_by_balance ON ledger_accounts (balance_micro, account_id);

CREATE INDEX ledger_entries_of_runs ON ledger_entries (ts) WHERE kind = 'run';

CREATE INDEX settlements_by_time ON settlements (settled_ms, reservation);

CREATE INDEX reconciliations_by_run ON reconciliations (at_ms, verdict);

CREATE INDEX parity_checks_found ON parity_checks (day_ms, cell_id, org_id)
    WHERE verdict IN ('compared', 'differs', 'only_here', 'only_there', 'unread', 'pruned')
