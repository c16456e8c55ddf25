CREATE TABLE my_sessions (
    session_sha256 TEXT NOT NULL,
    link_sha256 TEXT NOT NULL,
    org_id {id} NOT NULL,
    person {id},
    began_ms BIGINT NOT NULL,
    ended_ms BIGINT,
    PRIMARY KEY (session_sha256),
    CONSTRAINT my_sessions_hash CHECK (length(session_sha256) = 64 AND length(link_sha256) = 64),
    CONSTRAINT my_sessions_ended CHECK (ended_ms >= began_ms)
);

CREATE UNIQUE INDEX my_sessions_by_link ON my_sessions (link_sha256);

CREATE INDEX my_sessions_by_org ON my_sessions (org_id, began_ms);

CREATE INDEX my_sessions_by_time ON my_sessions (began_ms)
