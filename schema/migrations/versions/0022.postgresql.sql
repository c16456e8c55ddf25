CREATE TABLE topup_terms (
    customer_id TEXT COLLATE "C" NOT NULL,
    threshold_micro BIGINT NOT NULL,
    amount_micro BIGINT,
    fill_to_micro BIGINT,
    price_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    service TEXT COLLATE "C" NOT NULL,
    service_customer TEXT COLLATE "C" NOT NULL,
    most_minor BIGINT NOT NULL,
    max_day INTEGER NOT NULL,
    max_month INTEGER NOT NULL,
    mode TEXT NOT NULL,
    declines INTEGER DEFAULT 0 NOT NULL,
    wait_until_ms BIGINT,
    blocked_ms BIGINT,
    blocked_reason TEXT,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (customer_id),
    CONSTRAINT topup_terms_mode CHECK (mode IN ('live', 'shadow', 'stopped')),
    CONSTRAINT topup_terms_amount_or_level CHECK ((amount_micro IS NULL) <> (fill_to_micro IS NULL)),
    CONSTRAINT topup_terms_sane CHECK (price_minor > 0 AND most_minor > 0 AND max_day > 0 AND max_month > 0
        AND declines >= 0 AND COALESCE(amount_micro, 1) > 0
        AND COALESCE(fill_to_micro, threshold_micro + 1) > threshold_micro),
    CONSTRAINT topup_terms_blocked_says_why CHECK ((blocked_ms IS NULL) = (blocked_reason IS NULL))
);

CREATE TABLE topups (
    topup TEXT COLLATE "C" NOT NULL,
    customer_id TEXT COLLATE "C" NOT NULL,
    episode INTEGER NOT NULL,
    credits_micro BIGINT NOT NULL,
    money_minor BIGINT NOT NULL,
    price_minor BIGINT NOT NULL,
    currency TEXT NOT NULL,
    service TEXT COLLATE "C" NOT NULL,
    service_customer TEXT COLLATE "C" NOT NULL,
    max_day INTEGER NOT NULL,
    max_month INTEGER NOT NULL,
    at_ms BIGINT NOT NULL,
    begun_ms BIGINT NOT NULL,
    state TEXT NOT NULL,
    due_at_ms BIGINT NOT NULL,
    claim_owner TEXT COLLATE "C",
    attempts INTEGER DEFAULT 0 NOT NULL,
    lookups INTEGER DEFAULT 0 NOT NULL,
    asked_ms BIGINT,
    answer TEXT,
    evidence TEXT,
    payment_id TEXT COLLATE "C",
    ended_ms BIGINT,
    PRIMARY KEY (topup),
    CONSTRAINT topups_episode UNIQUE (customer_id, episode),
    CONSTRAINT topups_state CHECK (state IN ('due', 'sending', 'in_doubt', 'credited',
        'declined', 'needs_customer', 'given_up', 'shadow')),
    CONSTRAINT topups_end CHECK (state = 'shadow' OR (state IN ('due', 'sending', 'in_doubt')) = (ended_ms IS NULL)),
    CONSTRAINT topups_paid_says_how CHECK ((state = 'credited') = (payment_id IS NOT NULL)),
    CONSTRAINT topups_sane CHECK (credits_micro > 0 AND money_minor > 0 AND episode > 0 AND begun_ms <= at_ms)
);

CREATE INDEX topups_by_due ON topups (service, due_at_ms) WHERE state IN ('due', 'sending', 'in_doubt');

CREATE INDEX topups_by_end ON topups (ended_ms);

CREATE INDEX topups_by_wallet ON topups (customer_id, at_ms);

CREATE UNIQUE INDEX topups_one_open ON topups (customer_id) WHERE state IN ('due', 'sending', 'in_doubt');

CREATE TABLE topup_attempts (
    topup TEXT COLLATE "C" NOT NULL,
    attempt INTEGER NOT NULL,
    started_ms BIGINT NOT NULL,
    owner TEXT COLLATE "C" NOT NULL,
    finished_ms BIGINT,
    outcome TEXT,
    detail TEXT,
    PRIMARY KEY (topup, attempt)
);

CREATE TABLE topup_switch (
    one INTEGER NOT NULL,
    stopped_ms BIGINT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (one),
    CONSTRAINT topup_switch_one CHECK (one = 1)
)
