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
);

CREATE TABLE vendor_units (
    feature {id} NOT NULL,
    vendor {id} NOT NULL,
    service {id} NOT NULL,
    start_ms BIGINT NOT NULL,
    unit TEXT NOT NULL,
    units BIGINT NOT NULL,
    money_micro BIGINT NOT NULL,
    per_quantity BIGINT NOT NULL,
    currency TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (feature, vendor, service, start_ms),
    CONSTRAINT vendor_units_sane CHECK (units >= 0 AND money_micro >= 0 AND per_quantity > 0 AND start_ms % 86400000 = 0)
);

CREATE TABLE vendor_imports (
    import_id {id} NOT NULL,
    number BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (import_id),
    CONSTRAINT vendor_imports_in_order UNIQUE (number)
);

CREATE TABLE vendor_bills (
    number BIGINT NOT NULL,
    vendor {id} NOT NULL,
    service {id} NOT NULL,
    day_ms BIGINT NOT NULL,
    currency {id} NOT NULL,
    billed_micro BIGINT NOT NULL,
    is_final BOOLEAN NOT NULL,
    PRIMARY KEY (vendor, day_ms, number, service, currency),
    CONSTRAINT vendor_bills_on_a_day CHECK (day_ms % 86400000 = 0)
)
