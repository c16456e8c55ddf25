CREATE TABLE console_acts (
    key {id} NOT NULL,
    name {id} NOT NULL,
    action TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    answer TEXT NOT NULL,
    place TEXT NOT NULL,
    PRIMARY KEY (key)
);

CREATE INDEX console_acts_by_time ON console_acts (at_ms)
