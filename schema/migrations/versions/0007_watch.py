"""The watch: balances as they were read, rates of providers, what holds while one is down, figures of each verdict."""

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COLUMNS = {
    "orgs": (
        "balance_micro BIGINT",
        "balance_read_ms BIGINT",
        "plan TEXT",
        "unseen_micro BIGINT",
        "unread_since_ms BIGINT",
        "watch_due_ms BIGINT",
        "resume_above_micro BIGINT",
    ),
    "projections": ("balance_micro BIGINT", "unaccepted_micro BIGINT", "unsealed_micro BIGINT"),
}
_TABLES = """CREATE TABLE provider_rates (
    provider {id} NOT NULL,
    feature {id} NOT NULL,
    start_ms BIGINT NOT NULL,
    micro BIGINT NOT NULL,
    per_quantity BIGINT DEFAULT 1 NOT NULL,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (provider, feature, start_ms),
    CONSTRAINT provider_rates_sane CHECK (micro >= 0 AND per_quantity > 0)
);
CREATE TABLE provider_when_down (
    provider {id} NOT NULL,
    plan TEXT NOT NULL,
    policy TEXT NOT NULL,
    PRIMARY KEY (provider, plan),
    CONSTRAINT provider_when_down_policy CHECK (policy IN ('go_on', 'estimate', 'stop'))
);
CREATE TABLE watch_state (
    id INTEGER NOT NULL,
    round_ms BIGINT,
    PRIMARY KEY (id),
    CONSTRAINT watch_state_one_row CHECK (id = 1)
);
INSERT INTO watch_state (id) VALUES (1);
CREATE INDEX orgs_watch_due ON orgs (watch_due_ms) WHERE watch_due_ms IS NOT NULL"""


def upgrade() -> None:
    """Columns and tables; nothing that was there changes."""
    id_ = 'TEXT COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else "TEXT"
    for table, columns in _COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    for statement in _TABLES.replace("{id}", id_).split(";\n"):
        op.execute(statement)
    for event in ("UPDATE", "DELETE"):
        create(Guard(f"provider_rates_no_{event.lower()}", "provider_rates", event, "1 = 1", "rates are append-only"))


def downgrade() -> None:
    """Going back would forget why organisations were halted."""
    raise NotImplementedError("restore a backup instead: going back would forget why organisations were halted")
