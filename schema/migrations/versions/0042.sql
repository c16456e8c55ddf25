CREATE TABLE checks (
    check_name {id} NOT NULL,
    at_ms BIGINT NOT NULL,
    off BIGINT NOT NULL,
    alerts BIGINT NOT NULL,
    PRIMARY KEY (check_name),
    CONSTRAINT checks_sane CHECK (check_name IN ('guard', 'vendors') AND 0 <= alerts AND alerts <= off)
);

CREATE INDEX guard_uses_dark ON guard_uses (metric, at_ms) WHERE degraded
