CREATE TABLE console_users (
    name {id} NOT NULL,
    role TEXT NOT NULL,
    grant_limit_micro BIGINT,
    password TEXT,
    link_sha256 TEXT,
    link_expires_ms BIGINT,
    created_ms BIGINT NOT NULL,
    signed_in_ms BIGINT,
    ended_ms BIGINT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (name),
    CONSTRAINT console_users_role CHECK (role IN ('viewer', 'operator', 'admin')),
    CONSTRAINT console_users_grant_limit CHECK (grant_limit_micro >= 0),
    CONSTRAINT console_users_link CHECK ((link_sha256 IS NULL) = (link_expires_ms IS NULL)),
    CONSTRAINT console_users_ended_have_no_way_in CHECK (ended_ms IS NULL OR (password IS NULL AND link_sha256 IS NULL))
);

CREATE UNIQUE INDEX console_users_by_link ON console_users (link_sha256) WHERE link_sha256 IS NOT NULL;

CREATE TABLE console_sessions (
    session_sha256 TEXT NOT NULL,
    name {id} NOT NULL,
    began_ms BIGINT NOT NULL,
    seen_ms BIGINT NOT NULL,
    PRIMARY KEY (session_sha256),
    CONSTRAINT console_sessions_hash CHECK (length(session_sha256) = 64),
    CONSTRAINT console_sessions_seen CHECK (seen_ms >= began_ms)
);

CREATE INDEX console_sessions_by_name ON console_sessions (name);

CREATE INDEX console_sessions_by_time ON console_sessions (began_ms);

CREATE TABLE console_failures (
    name {id} NOT NULL,
    address {id} NOT NULL,
    since_ms BIGINT NOT NULL,
    failures INTEGER NOT NULL,
    PRIMARY KEY (name, address),
    CONSTRAINT console_failures_some CHECK (failures > 0)
);

CREATE INDEX console_failures_by_time ON console_failures (since_ms);

CREATE TABLE console_marks (
    mark TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (mark),
    CONSTRAINT console_marks_known CHECK (mark IN ('demo'))
)
