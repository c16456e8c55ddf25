CREATE TABLE plan_terms (
    "plan" {id} NOT NULL,
    number INTEGER NOT NULL,
    from_ms BIGINT NOT NULL,
    included_micro BIGINT NOT NULL,
    rollover_min_micro BIGINT NOT NULL,
    rollover_max_micro BIGINT NOT NULL,
    first_micro BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY ("plan", number),
    CONSTRAINT plan_terms_sane CHECK (included_micro >= 0 AND rollover_min_micro >= 0 AND rollover_max_micro >= 0
        AND first_micro >= 0)
);

CREATE TABLE plan_stays (
    customer_id {id} NOT NULL,
    number INTEGER NOT NULL,
    "plan" {id} NOT NULL,
    since_ms BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (customer_id, number)
);

CREATE TABLE plan_lots (
    lot {id} NOT NULL,
    customer_id {id} NOT NULL,
    part TEXT NOT NULL,
    "plan" {id} NOT NULL,
    period TEXT,
    rollover_min_micro BIGINT NOT NULL,
    rollover_max_micro BIGINT NOT NULL,
    PRIMARY KEY (lot),
    CONSTRAINT plan_lots_part CHECK (part IN ('included', 'rollover', 'first')),
    CONSTRAINT plan_lots_period CHECK ((part = 'first') = (period IS NULL))
);

CREATE INDEX plan_lots_by_customer ON plan_lots (customer_id, period);

CREATE TABLE tiers (
    tier {id} NOT NULL,
    at_once INTEGER NOT NULL,
    price_micro BIGINT NOT NULL,
    PRIMARY KEY (tier),
    CONSTRAINT tiers_sane CHECK (at_once >= 0 AND price_micro >= 0)
);

CREATE TABLE tier_holders (
    customer_id {id} NOT NULL,
    tier {id} NOT NULL,
    bought_ms BIGINT NOT NULL,
    paid_to_ms BIGINT NOT NULL,
    renews BOOLEAN NOT NULL,
    ended_ms BIGINT,
    ended_reason TEXT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (customer_id, tier)
);

CREATE INDEX tier_holders_by_tier ON tier_holders (tier);

ALTER TABLE ledger_accounts ADD COLUMN given_to_ms BIGINT;

INSERT INTO plan_stays (customer_id, number, "plan", since_ms, at_ms, actor, reason)
SELECT SUBSTR(account_id, 8), 1, "plan", 0, 0, 'drawdown', 'before schema 0025' FROM ledger_accounts
WHERE "plan" IS NOT NULL;

UPDATE ledger_accounts SET next_due_ms = 0 WHERE "plan" IS NOT NULL
