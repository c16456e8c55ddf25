CREATE TABLE proofs (
    number {serial} NOT NULL,
    at_ms BIGINT NOT NULL,
    took_ms BIGINT NOT NULL,
    orgs BIGINT,
    breaches BIGINT NOT NULL,
    by_invariant TEXT NOT NULL,
    checked TEXT NOT NULL,
    open TEXT NOT NULL,
    newest_action TEXT NOT NULL,
    doubted TEXT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (number),
    CONSTRAINT proofs_sane CHECK (breaches >= 0 AND took_ms >= 0 AND orgs > 0)
);

CREATE TABLE invariants (
    invariant INTEGER NOT NULL,
    held_by BIGINT,
    broken_by BIGINT,
    PRIMARY KEY (invariant)
);

CREATE INDEX usage_events_by_ingested ON usage_events (ingested_ms, sample_id)
