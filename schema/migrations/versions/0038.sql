CREATE TABLE backfills (
    backfill {id} NOT NULL,
    org_id {id} NOT NULL,
    from_ms BIGINT NOT NULL,
    to_ms BIGINT NOT NULL,
    state TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    closed_ms BIGINT,
    reverted_ms BIGINT,
    diff_hash TEXT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (backfill),
    CONSTRAINT backfills_state CHECK (state IN ('open', 'closed', 'reverted')),
    CONSTRAINT backfills_range CHECK (from_ms % 300000 = 0 AND to_ms % 300000 = 0 AND from_ms < to_ms),
    CONSTRAINT backfills_moments CHECK ((closed_ms IS NULL) = (diff_hash IS NULL)
        AND (state <> 'closed' OR closed_ms IS NOT NULL) AND (state <> 'open' OR closed_ms IS NULL)
        AND (state = 'reverted') = (reverted_ms IS NOT NULL))
);

CREATE UNIQUE INDEX backfills_one_open ON backfills (org_id) WHERE state = 'open';

CREATE TABLE backfill_events (
    backfill {id} NOT NULL,
    sample_id {id} NOT NULL,
    source {id} NOT NULL,
    event_id {id} NOT NULL,
    event_type {id} NOT NULL,
    quantity BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    subject {id},
    project {id},
    plan_key {id},
    properties TEXT NOT NULL,
    PRIMARY KEY (backfill, sample_id)
)
