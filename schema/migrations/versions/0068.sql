CREATE TABLE folded_pushes (
    day_ms BIGINT NOT NULL,
    org_id {id} NOT NULL,
    provider {id} NOT NULL,
    customer_id {id} NOT NULL,
    feature {id} NOT NULL,
    state TEXT NOT NULL,
    pushes BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    sealed_qty BIGINT NOT NULL,
    sent_qty BIGINT NOT NULL,
    folded_ms BIGINT NOT NULL,
    PRIMARY KEY (day_ms, org_id, provider, customer_id, feature, state),
    CONSTRAINT folded_pushes_state CHECK (state IN ('accepted', 'voided', 'carried', 'shadow'))
);

CREATE INDEX folded_pushes_by_org ON folded_pushes (org_id, day_ms)
