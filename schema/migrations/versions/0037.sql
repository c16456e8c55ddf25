CREATE TABLE parity_checks (
    day_ms BIGINT NOT NULL,
    cell_id {id} NOT NULL,
    org_id {id} NOT NULL,
    ours_s BIGINT,
    theirs_s BIGINT,
    withdrawn_s BIGINT NOT NULL,
    off_s BIGINT,
    ppm BIGINT,
    verdict TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (day_ms, cell_id, org_id)
)
