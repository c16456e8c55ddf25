CREATE TABLE event_types (
    event_type {id} NOT NULL,
    meter BIGINT NOT NULL,
    first_seen_ms BIGINT NOT NULL,
    PRIMARY KEY (event_type),
    CONSTRAINT event_types_meter UNIQUE (meter),
    CONSTRAINT event_types_meters CHECK (meter BETWEEN 16777217 AND 16787216)
);

CREATE TABLE usage_events (
    sample_id {id} NOT NULL,
    source {id} NOT NULL,
    event_id {id} NOT NULL,
    event_type {id} NOT NULL,
    org_id {id} NOT NULL,
    quantity BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    subject {id},
    project {id},
    plan_key {id},
    properties TEXT NOT NULL,
    ingested_ms BIGINT NOT NULL,
    PRIMARY KEY (sample_id),
    CONSTRAINT usage_events_quantity CHECK (quantity BETWEEN 0 AND 1000000000000)
);

CREATE INDEX mappings_by_size ON mappings (memory_mb, start_ms)
