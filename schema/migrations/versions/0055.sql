CREATE TABLE orders (
    order_id {serial} NOT NULL,
    kind TEXT NOT NULL,
    asked TEXT NOT NULL,
    state TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    began_ms BIGINT,
    ended_ms BIGINT,
    worker TEXT,
    lease_ms BIGINT,
    tries INTEGER DEFAULT 0 NOT NULL,
    said TEXT DEFAULT '' NOT NULL,
    via TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (order_id),
    CONSTRAINT orders_kind CHECK (kind = 'replay'),
    CONSTRAINT orders_state CHECK (state IN ('waiting', 'under_way', 'done', 'failed', 'cancelled')),
    CONSTRAINT orders_leased CHECK ((state = 'under_way') = (lease_ms IS NOT NULL))
);

CREATE INDEX orders_open ON orders (order_id) WHERE state IN ('waiting', 'under_way');

ALTER TABLE replays ADD COLUMN order_id BIGINT;

CREATE INDEX replays_by_order ON replays (order_id) WHERE order_id IS NOT NULL
