CREATE TABLE hook_endpoints (
    name {id} NOT NULL,
    url TEXT NOT NULL,
    events TEXT NOT NULL,
    generation INTEGER DEFAULT 1 NOT NULL,
    old_until_ms BIGINT,
    created_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (name),
    CONSTRAINT hook_endpoints_generation CHECK (generation > 0)
);

CREATE TABLE hook_messages (
    message_id {id} NOT NULL,
    event TEXT NOT NULL,
    fact {id} NOT NULL,
    org_id {id},
    customer_id {id},
    at_ms BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (message_id),
    CONSTRAINT hook_messages_fact UNIQUE (fact)
);

CREATE INDEX hook_messages_by_time ON hook_messages (at_ms);

CREATE INDEX hook_messages_by_org ON hook_messages (org_id, at_ms);

CREATE TABLE hook_deliveries (
    message_id {id} NOT NULL,
    endpoint {id} NOT NULL,
    state TEXT DEFAULT 'due' NOT NULL,
    due_at_ms BIGINT NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    failures INTEGER DEFAULT 0 NOT NULL,
    replays INTEGER DEFAULT 0 NOT NULL,
    claim_owner {id},
    last_status INTEGER,
    last_error TEXT,
    ended_ms BIGINT,
    PRIMARY KEY (message_id, endpoint),
    CONSTRAINT hook_deliveries_state CHECK (state IN ('due', 'delivered', 'failed')),
    CONSTRAINT hook_deliveries_end CHECK ((state = 'due') = (ended_ms IS NULL)),
    CONSTRAINT hook_deliveries_sane CHECK (attempts >= 0 AND failures >= 0 AND replays >= 0)
);

CREATE INDEX hook_deliveries_due ON hook_deliveries (endpoint, due_at_ms) WHERE state = 'due';

CREATE INDEX hook_deliveries_failed ON hook_deliveries (endpoint, ended_ms) WHERE state = 'failed';

CREATE TABLE balance_levels (
    org_id {id} NOT NULL,
    low_micro BIGINT,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (org_id)
);

CREATE TABLE balance_episodes (
    org_id {id} NOT NULL,
    level TEXT NOT NULL,
    episode INTEGER NOT NULL,
    begun_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    PRIMARY KEY (org_id, level, episode),
    CONSTRAINT balance_episodes_level CHECK (level IN ('low', 'exhausted')),
    CONSTRAINT balance_episodes_number CHECK (episode > 0)
);

CREATE UNIQUE INDEX balance_episodes_open ON balance_episodes (org_id, level) WHERE ended_ms IS NULL
