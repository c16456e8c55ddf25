CREATE TABLE guard_metrics (
    metric {id} NOT NULL,
    number INTEGER NOT NULL,
    price_micro BIGINT NOT NULL,
    per_units BIGINT NOT NULL,
    payer {id},
    phase INTEGER NOT NULL,
    warn_ppm INTEGER NOT NULL,
    fails_open BOOLEAN NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (metric, number),
    CONSTRAINT guard_metrics_sane CHECK (phase BETWEEN 0 AND 3 AND price_micro >= 0 AND per_units > 0 AND warn_ppm BETWEEN 0 AND 1000000)
);

CREATE TABLE guard_limits (
    metric {id} NOT NULL,
    "plan" {id} NOT NULL,
    period TEXT NOT NULL,
    number INTEGER NOT NULL,
    ended BOOLEAN NOT NULL,
    amount BIGINT,
    phase INTEGER,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (metric, "plan", period, number),
    CONSTRAINT guard_limits_sane CHECK (period IN ('hour', 'day', 'month') AND (phase IS NULL OR phase BETWEEN 0 AND 3) AND amount >= 0)
);

CREATE TABLE guard_overrides (
    number {serial} NOT NULL,
    metric {id} NOT NULL,
    reach TEXT NOT NULL,
    target {id} NOT NULL,
    period TEXT NOT NULL,
    amount BIGINT,
    ends_ms BIGINT,
    state TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    decided_ms BIGINT,
    decided_by TEXT,
    decided_reason TEXT,
    PRIMARY KEY (number),
    CONSTRAINT guard_overrides_sane CHECK (period IN ('hour', 'day', 'month') AND reach IN ('org', 'pattern', 'plan') AND state IN ('asked', 'in_force', 'refused', 'ended') AND amount >= 0),
    CONSTRAINT guard_overrides_decided CHECK ((state = 'asked') = (decided_ms IS NULL))
);

CREATE INDEX guard_overrides_in_force ON guard_overrides (metric, reach, target) WHERE state = 'in_force';

CREATE TABLE guard_uses (
    use_key {id} NOT NULL,
    org_id {id} NOT NULL,
    metric {id} NOT NULL,
    number BIGINT NOT NULL,
    month_ms BIGINT NOT NULL,
    metric_number INTEGER NOT NULL,
    asked BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    state TEXT NOT NULL,
    decision TEXT NOT NULL,
    would TEXT NOT NULL,
    rule TEXT NOT NULL,
    enforced BOOLEAN NOT NULL,
    limit_period TEXT,
    limit_amount BIGINT,
    degraded BOOLEAN NOT NULL,
    reservation {id},
    charged_micro BIGINT NOT NULL,
    forgone_micro BIGINT NOT NULL,
    fingerprint TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    expires_ms BIGINT,
    ended_ms BIGINT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (use_key),
    CONSTRAINT guard_uses_words CHECK (state IN ('used', 'held', 'settled', 'released', 'expired') AND decision IN ('allow', 'warn') AND would IN ('allow', 'warn', 'block')),
    CONSTRAINT guard_uses_sane CHECK (asked > 0 AND amount >= 0 AND charged_micro >= 0 AND forgone_micro >= 0 AND number > 0)
);

CREATE INDEX guard_uses_by_time ON guard_uses (metric, at_ms);

CREATE INDEX guard_uses_by_metric ON guard_uses (org_id, metric, at_ms);

CREATE INDEX guard_uses_held ON guard_uses (org_id, metric, expires_ms) WHERE state = 'held';

CREATE TABLE guard_counters (
    org_id {id} NOT NULL,
    metric {id} NOT NULL,
    period TEXT NOT NULL,
    start_ms BIGINT NOT NULL,
    used BIGINT NOT NULL,
    uses BIGINT NOT NULL,
    warned BOOLEAN NOT NULL,
    PRIMARY KEY (org_id, metric, period, start_ms),
    CONSTRAINT guard_counters_sane CHECK (period IN ('hour', 'day', 'month') AND used >= 0 AND uses >= 0)
);

CREATE TABLE guard_denials (
    org_id {id} NOT NULL,
    metric {id} NOT NULL,
    minute_ms BIGINT NOT NULL,
    reason_code {id} NOT NULL,
    enforced BOOLEAN NOT NULL,
    count BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    pays BOOLEAN NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    sample {id} NOT NULL,
    PRIMARY KEY (org_id, metric, minute_ms, reason_code, enforced),
    CONSTRAINT guard_denials_sane CHECK (count > 0 AND amount > 0 AND last_ms >= first_ms)
);

CREATE INDEX guard_denials_by_time ON guard_denials (metric, minute_ms);

CREATE TABLE guard_corrections (
    number {serial} NOT NULL,
    org_id {id} NOT NULL,
    metric {id} NOT NULL,
    period TEXT NOT NULL,
    start_ms BIGINT NOT NULL,
    "before" BIGINT NOT NULL,
    "after" BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (number),
    CONSTRAINT guard_corrections_sane CHECK (period IN ('hour', 'day', 'month') AND before >= 0 AND after >= 0)
)
