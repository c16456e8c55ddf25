-- Which provider bills an organisation, as which customer, from which window on (P4).
CREATE TABLE assignments (
    org_id TEXT COLLATE "C" NOT NULL,
    start_ms BIGINT NOT NULL,
    end_ms BIGINT,
    provider TEXT COLLATE "C" NOT NULL,
    customer_id TEXT COLLATE "C" NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (org_id, start_ms),
    CONSTRAINT assignments_on_window CHECK (start_ms % 300000 = 0 AND end_ms % 300000 = 0),
    CONSTRAINT assignments_not_empty CHECK (end_ms IS NULL OR end_ms > start_ms)
);

CREATE INDEX assignments_by_start ON assignments (start_ms);

CREATE INDEX assignments_by_customer ON assignments (provider, customer_id);

CREATE UNIQUE INDEX assignments_one_org_a_customer ON assignments (provider, customer_id) WHERE end_ms IS NULL AND provider NOT IN ('legacy', 'none');

-- Each send, committed before a byte leaves (P1). No outcome means: the answer was never seen.
CREATE TABLE attempts (
    window_ms BIGINT NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    feature TEXT COLLATE "C" NOT NULL,
    revision INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    started_ms BIGINT NOT NULL,
    owner TEXT NOT NULL,
    sent_qty BIGINT NOT NULL,
    finished_ms BIGINT,
    outcome TEXT,
    detail TEXT,
    PRIMARY KEY (window_ms, org_id, feature, revision, attempt)
);

-- 256 fixed hash buckets of organisations. The row is the seal's lock (S1), with the arrival cursor (S2).
CREATE TABLE buckets (
    id INTEGER NOT NULL,
    watermark_ms BIGINT NOT NULL,
    cursor BIGINT NOT NULL,
    epoch INTEGER DEFAULT 0 NOT NULL,
    sweep_began_ms BIGINT NOT NULL,
    sweep_next_ms BIGINT NOT NULL,
    PRIMARY KEY (id)
);

-- Sealed but not sent: what a whole unit or a refused negative left over (S10).
CREATE TABLE carries (
    org_id TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    customer_id TEXT COLLATE "C" NOT NULL,
    feature TEXT COLLATE "C" NOT NULL,
    carry_qty BIGINT NOT NULL,
    PRIMARY KEY (org_id, provider, customer_id, feature)
);

-- Host groups that run sandboxes and obey POST /admin/halt-org.
CREATE TABLE cells (
    cell_id TEXT COLLATE "C" NOT NULL,
    url TEXT NOT NULL,
    PRIMARY KEY (cell_id)
);

-- Windows below the watermark whose difference must be computed again: late, mended, voided, withdrawn.
CREATE TABLE dirty_windows (
    org_id TEXT COLLATE "C" NOT NULL,
    window_ms BIGINT NOT NULL,
    PRIMARY KEY (org_id, window_ms)
);

-- A halt owed to a cell, until the cell acknowledged it. due_at_ms NULL: acknowledged.
CREATE TABLE halts (
    org_id TEXT COLLATE "C" NOT NULL,
    cell_id TEXT COLLATE "C" NOT NULL,
    halted_at BIGINT NOT NULL,
    due_at_ms BIGINT,
    acked_at_ms BIGINT,
    attempts INTEGER DEFAULT 0 NOT NULL,
    claim_owner TEXT,
    last_error TEXT,
    PRIMARY KEY (org_id, cell_id, halted_at),
    CONSTRAINT halts_due_or_acked CHECK (due_at_ms IS NOT NULL OR acked_at_ms IS NOT NULL)
);

CREATE INDEX halts_due ON halts (due_at_ms) WHERE due_at_ms IS NOT NULL;

-- Samples that arrived below their organisation's floor (S4): too late for good.
CREATE TABLE late_quarantine (
    sample_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    found_ms BIGINT NOT NULL,
    PRIMARY KEY (sample_id)
);

-- Wallets of customers, and the accounts on the other side. The balance is the sum of its lines, kept.
CREATE TABLE ledger_accounts (
    account_id TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    balance_micro BIGINT DEFAULT 0 NOT NULL,
    plan TEXT COLLATE "C",
    PRIMARY KEY (account_id),
    CONSTRAINT ledger_accounts_kind CHECK (kind IN ('wallet', 'revenue', 'source'))
);

-- Each entry moves an amount from one account to another: two lines that sum to zero by construction.
CREATE TABLE ledger_entries (
    key TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    from_account TEXT COLLATE "C" NOT NULL,
    to_account TEXT COLLATE "C" NOT NULL,
    amount_micro BIGINT NOT NULL,
    feature TEXT COLLATE "C",
    quantity BIGINT,
    ts BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (key),
    CONSTRAINT ledger_entries_kind CHECK (kind IN ('usage', 'grant')),
    CONSTRAINT ledger_entries_two_sides CHECK (from_account <> to_account),
    CONSTRAINT ledger_entries_usage_says_what CHECK (kind <> 'usage' OR (feature IS NOT NULL AND quantity IS NOT NULL))
);

CREATE INDEX ledger_entries_by_from ON ledger_entries (from_account, ts);

-- How many sandboxes at once a plan allows.
CREATE TABLE ledger_plans (
    plan TEXT COLLATE "C" NOT NULL,
    max_concurrent_sandboxes INTEGER NOT NULL,
    PRIMARY KEY (plan)
);

-- The rate card: micro-credits for each per_quantity base units, from a moment on.
CREATE TABLE ledger_rates (
    feature TEXT COLLATE "C" NOT NULL,
    start_ms BIGINT NOT NULL,
    micro_credits BIGINT NOT NULL,
    per_quantity BIGINT DEFAULT '1' NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (feature, start_ms),
    CONSTRAINT ledger_rates_sane CHECK (micro_credits >= 0 AND per_quantity > 0)
);

-- Which memory sizes make which feature, from which window on (S5). Append-only; NULL ends a selector.
CREATE TABLE mappings (
    mapping_id BIGSERIAL NOT NULL,
    kind TEXT NOT NULL,
    memory_mb BIGINT,
    feature TEXT COLLATE "C",
    unit TEXT NOT NULL,
    start_ms BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (mapping_id),
    CONSTRAINT mappings_feature_name CHECK (feature !~ '[^a-z0-9_]'),
    CONSTRAINT mappings_kind CHECK (kind IN ('exact', 'up_to')),
    CONSTRAINT mappings_unit CHECK (unit IN ('s', 'mb_s')),
    CONSTRAINT mappings_exact_has_size CHECK (kind = 'up_to' OR memory_mb IS NOT NULL),
    CONSTRAINT mappings_on_window CHECK (start_ms % 300000 = 0)
);

-- Everything a person changed. Append-only.
CREATE TABLE operator_actions (
    action_id BIGSERIAL NOT NULL,
    at_ms BIGINT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    details TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (action_id)
);

-- One row an organisation: who bills it now, and the provider's verdict (the projection).
CREATE TABLE orgs (
    org_id TEXT COLLATE "C" NOT NULL,
    bucket INTEGER,
    registered BOOLEAN DEFAULT true NOT NULL,
    billing_provider TEXT COLLATE "C",
    is_halted BOOLEAN DEFAULT false NOT NULL,
    halted_at BIGINT,
    max_concurrent_sandboxes INTEGER,
    halt_reason TEXT,
    projection_read_ms BIGINT,
    projection_due_ms BIGINT,
    projection_asks INTEGER DEFAULT 0 NOT NULL,
    operator_halt BOOLEAN DEFAULT false NOT NULL,
    override_halted BOOLEAN,
    override_max_concurrent INTEGER,
    override_until_ms BIGINT,
    held_watermark_ms BIGINT,
    floor_ms BIGINT DEFAULT 0 NOT NULL,
    stopped_at_ms BIGINT,
    stopped_reason TEXT,
    PRIMARY KEY (org_id),
    CONSTRAINT orgs_bucket_range CHECK (bucket BETWEEN 0 AND 255),
    CONSTRAINT orgs_halted_at_with_is_halted CHECK (is_halted = (halted_at IS NOT NULL)),
    CONSTRAINT orgs_floor_on_window CHECK (floor_ms % 300000 = 0),
    CONSTRAINT orgs_watermark_on_window CHECK (held_watermark_ms % 300000 = 0)
);

CREATE INDEX orgs_exceptional ON orgs (bucket) WHERE held_watermark_ms IS NOT NULL OR stopped_at_ms IS NOT NULL;

CREATE INDEX orgs_halted ON orgs (org_id) WHERE is_halted;

CREATE INDEX orgs_override_ends ON orgs (override_until_ms) WHERE override_until_ms IS NOT NULL;

CREATE INDEX orgs_projection_due ON orgs (projection_due_ms) WHERE projection_due_ms IS NOT NULL;

-- Used but not sealable yet, with the reason (S6). What mends it makes the window dirty.
CREATE TABLE pending_usage (
    window_ms BIGINT NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    memory_mb BIGINT NOT NULL,
    reason TEXT NOT NULL,
    seconds BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    PRIMARY KEY (window_ms, org_id, memory_mb),
    CONSTRAINT pending_usage_reason CHECK (reason IN ('unknown_org', 'no_assignment', 'no_mapping'))
);

CREATE INDEX pending_usage_by_org ON pending_usage (org_id, window_ms);

-- Each change of the verdict, with the moment its read began (invariant 8).
CREATE TABLE projections (
    projection_id BIGSERIAL NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    read_ms BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    is_halted BOOLEAN NOT NULL,
    max_concurrent_sandboxes INTEGER,
    reason TEXT,
    PRIMARY KEY (projection_id)
);

CREATE INDEX projections_by_org ON projections (org_id, projection_id);

-- The outbox: one immutable quantity a row (S3). Only its delivery state changes.
CREATE TABLE pushes (
    window_ms BIGINT NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    feature TEXT COLLATE "C" NOT NULL,
    revision INTEGER NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    customer_id TEXT COLLATE "C" NOT NULL,
    sealed_qty BIGINT NOT NULL,
    sent_qty BIGINT NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    sealed_at_ms BIGINT NOT NULL,
    seal_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    due_at_ms BIGINT NOT NULL,
    claim_owner TEXT,
    attempts INTEGER DEFAULT 0 NOT NULL,
    first_attempt_ms BIGINT,
    settled_ms BIGINT,
    last_error TEXT,
    PRIMARY KEY (window_ms, org_id, feature, revision),
    CONSTRAINT pushes_quantity_bound CHECK (sealed_qty BETWEEN -9000000000000000000 AND 9000000000000000000),
    CONSTRAINT pushes_state CHECK (state IN ('due', 'queued', 'in_doubt', 'accepted', 'rejected', 'voided', 'carried'))
);

CREATE INDEX pushes_open ON pushes (provider, due_at_ms) WHERE state IN ('due', 'queued', 'in_doubt', 'rejected');

-- The same sample id seen again with other content (S7): kept here, billed never.
CREATE TABLE sample_conflicts (
    conflict_id BIGSERIAL NOT NULL,
    sample_id TEXT COLLATE "C" NOT NULL,
    source TEXT NOT NULL,
    content TEXT NOT NULL,
    seen_ms BIGINT NOT NULL,
    PRIMARY KEY (conflict_id),
    CONSTRAINT sample_conflicts_once UNIQUE (sample_id, content)
);

-- Where an organisation's sandboxes are. The hosts' own program keeps it.
CREATE TABLE sandboxes (
    sandbox_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    cell_id TEXT COLLATE "C" NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (sandbox_id),
    CONSTRAINT sandboxes_state CHECK (state IN ('running', 'hibernated', 'migrating', 'stopped'))
);

CREATE INDEX sandboxes_by_org ON sandboxes (org_id, cell_id);

-- One row a committed seal: how far watermark and cursor had come (invariant 4).
CREATE TABLE seals (
    seal_id BIGSERIAL NOT NULL,
    at_ms BIGINT NOT NULL,
    bucket_lo INTEGER NOT NULL,
    bucket_hi INTEGER NOT NULL,
    horizon_ms BIGINT NOT NULL,
    cursor BIGINT NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (seal_id)
);

-- One row a tick: what it did and what it left (JSON).
CREATE TABLE ticks (
    tick_id BIGSERIAL NOT NULL,
    worker TEXT NOT NULL,
    bucket_lo INTEGER NOT NULL,
    bucket_hi INTEGER NOT NULL,
    started_ms BIGINT NOT NULL,
    finished_ms BIGINT,
    exit_status INTEGER,
    clock_trusted BOOLEAN DEFAULT false NOT NULL,
    report TEXT,
    PRIMARY KEY (tick_id)
);

-- Usage as observed. Any program may insert; rows never change (S7). `problem` is the quarantine's reason.
CREATE TABLE usage_samples (
    -- The inserting transaction's id: whatever was not yet visible to a seal has one at or above its snapshot's xmin
    -- (S2). A bigint and not xid8, because xid8 has no BRIN operator class.
    arrival BIGINT NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    org_id TEXT COLLATE "C",
    sandbox_id TEXT COLLATE "C",
    cell_id TEXT COLLATE "C",
    memory_mb BIGINT,
    cpu_count NUMERIC,
    -- NUMERIC keeps a fraction that another program inserts, so that it is quarantined and not silently rounded.
    interval_s NUMERIC,
    ts BIGINT,
    ingested_at BIGINT DEFAULT ((extract(epoch FROM clock_timestamp()) * 1000)::bigint),
    problem TEXT GENERATED ALWAYS AS (CASE
        WHEN id IS NULL OR length(id) NOT BETWEEN 1 AND 200 OR id ~ E'[\\u0001-\\u001f\\u007f-\\u009f\\ufffd]' THEN 'bad_id'
        WHEN org_id IS NULL OR length(org_id) NOT BETWEEN 1 AND 200 OR org_id ~ E'[\\u0001-\\u001f\\u007f-\\u009f\\ufffd]' THEN 'bad_org_id'
        WHEN sandbox_id IS NULL OR length(sandbox_id) NOT BETWEEN 1 AND 200 OR sandbox_id ~ E'[\\u0001-\\u001f\\u007f-\\u009f\\ufffd]' THEN 'bad_sandbox_id'
        WHEN cell_id IS NULL OR length(cell_id) NOT BETWEEN 1 AND 200 OR cell_id ~ E'[\\u0001-\\u001f\\u007f-\\u009f\\ufffd]' THEN 'bad_cell_id'
        WHEN memory_mb IS NULL THEN 'memory_missing'
        WHEN memory_mb NOT BETWEEN 0 AND 16777216 THEN 'memory_out_of_bounds'
        WHEN interval_s IS NULL THEN 'interval_missing'
        WHEN interval_s = 'NaN' THEN 'interval_not_a_number'
        WHEN interval_s < 0 THEN 'interval_negative'
        WHEN interval_s > 86400 THEN 'interval_over_a_day'
        WHEN interval_s <> trunc(interval_s) THEN 'interval_fractional'
        WHEN ts IS NULL THEN 'ts_missing'
        WHEN ts < 946684800000 THEN 'ts_before_2000'
        WHEN ts > ingested_at + 300000 THEN 'ts_in_the_future'
    END) STORED
);

CREATE INDEX usage_samples_by_org_ts ON usage_samples (org_id, ts);

CREATE INDEX usage_samples_by_ts ON usage_samples USING brin (ts) WITH (autosummarize = on);

CREATE INDEX usage_samples_by_arrival ON usage_samples USING brin (arrival) WITH (autosummarize = on);

CREATE INDEX usage_samples_problems ON usage_samples (problem) WHERE problem IS NOT NULL;

-- Statements that a push never reached its provider, with evidence (P5).
CREATE TABLE voids (
    window_ms BIGINT NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    feature TEXT COLLATE "C" NOT NULL,
    revision INTEGER NOT NULL,
    at_ms BIGINT NOT NULL,
    evidence_kind TEXT NOT NULL,
    evidence TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (window_ms, org_id, feature, revision),
    CONSTRAINT voids_evidence_kind CHECK (evidence_kind IN ('rejected', 'absent', 'operator')),
    CONSTRAINT voids_evidence_given CHECK (length(evidence) > 0)
);

-- Samples declared wrong; each takes its whole sample out of what is owed.
CREATE TABLE withdrawals (
    sample_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    ts BIGINT NOT NULL,
    memory_mb BIGINT NOT NULL,
    interval_s BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (sample_id)
);

CREATE INDEX withdrawals_by_org_ts ON withdrawals (org_id, ts);

CREATE INDEX withdrawals_by_ts ON withdrawals (ts);

-- The two lines of each entry. They sum to zero because both are read from the one amount.
CREATE VIEW ledger_lines AS
SELECT key AS entry_key, from_account AS account_id, -amount_micro AS amount_micro FROM ledger_entries
UNION ALL
SELECT key, to_account, amount_micro FROM ledger_entries;
