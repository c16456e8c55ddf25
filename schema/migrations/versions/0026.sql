ALTER TABLE reservations ADD COLUMN settled_by TEXT DEFAULT 'receipt' NOT NULL
    CONSTRAINT reservations_settled_by CHECK (settled_by IN ('receipt', 'metering'));

ALTER TABLE reservations ADD COLUMN metered_before_micro BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE reservations ADD COLUMN metered_to_ms BIGINT;

CREATE INDEX reservations_metering ON reservations (customer_id, reservation)
    WHERE state = 'held' AND settled_by = 'metering';

CREATE TABLE reservation_sandboxes (
    reservation {id} NOT NULL,
    sandbox_id {id} NOT NULL,
    org_id {id} NOT NULL,
    is_open BOOLEAN NOT NULL,
    PRIMARY KEY (reservation, sandbox_id)
);

CREATE UNIQUE INDEX reservation_sandboxes_open ON reservation_sandboxes (sandbox_id) WHERE is_open
