CREATE TABLE batches (
    batch {id} NOT NULL,
    source {id} NOT NULL,
    name {id} NOT NULL,
    path TEXT NOT NULL,
    row_count BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    samples BIGINT NOT NULL,
    total BIGINT NOT NULL,
    from_ms BIGINT,
    to_ms BIGINT,
    taken_ms BIGINT NOT NULL,
    withdrawn_ms BIGINT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (batch)
);

CREATE UNIQUE INDEX batches_by_name ON batches (source, name) WHERE withdrawn_ms IS NULL;

CREATE INDEX batches_by_taken ON batches (taken_ms, batch);

CREATE TABLE batch_refused_rows (
    batch {id} NOT NULL,
    number BIGINT NOT NULL,
    wrong_column TEXT NOT NULL,
    said TEXT NOT NULL,
    PRIMARY KEY (batch, number)
);

CREATE TABLE batch_files (
    source {id} NOT NULL,
    name {id} NOT NULL,
    batch {id} NOT NULL,
    size_bytes BIGINT NOT NULL,
    modified_ns BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    said TEXT NOT NULL,
    seen_ms BIGINT NOT NULL,
    PRIMARY KEY (source, name, batch),
    CONSTRAINT batch_files_outcome CHECK (outcome IN ('taken', 'repeated', 'conflict', 'refused'))
);

CREATE INDEX batch_files_by_seen ON batch_files (seen_ms);

CREATE TABLE batch_sources (
    source {id} NOT NULL,
    folder TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    paused_ms BIGINT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (source)
)
