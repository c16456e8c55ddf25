"""Which database this is, what of its history was lost, and replays that are under way. What differs from a provider is
found without reading all comparisons."""

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = """CREATE TABLE incarnation (
    id INTEGER NOT NULL,
    database_id {id} NOT NULL,
    number INTEGER NOT NULL,
    system_id {id},
    timeline TEXT,
    sends BIGINT DEFAULT 0 NOT NULL,
    doubted_ms BIGINT,
    doubted_reason TEXT,
    PRIMARY KEY (id),
    CONSTRAINT incarnation_one_row CHECK (id = 1)
);
CREATE TABLE losses (
    number INTEGER NOT NULL,
    from_ms BIGINT NOT NULL,
    until_ms BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    seal_id BIGINT NOT NULL,
    found TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (number),
    CONSTRAINT losses_in_order CHECK (from_ms <= until_ms)
);
CREATE TABLE replays (
    replay_id {serial},
    scope TEXT NOT NULL,
    from_ms BIGINT NOT NULL,
    to_ms BIGINT NOT NULL,
    next_ms BIGINT NOT NULL,
    pushes BIGINT DEFAULT 0 NOT NULL,
    worker TEXT NOT NULL,
    started_ms BIGINT NOT NULL,
    lease_ms BIGINT NOT NULL,
    finished_ms BIGINT,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL
    {key}
);
CREATE INDEX reconciliations_differing ON reconciliations (provider, verdict, day_ms)
WHERE verdict IN ('short', 'over')"""
_SERIAL = {
    "postgresql": ("BIGSERIAL NOT NULL", ", PRIMARY KEY (replay_id)", 'TEXT COLLATE "C"'),
    "sqlite": ("INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL", "", "TEXT"),
}
# A database names itself once, and a copy of it carries the name: what is kept outside is kept under it.
_NAMED = {
    "postgresql": "replace(gen_random_uuid()::text, '-', '')",
    "sqlite": "lower(hex(randomblob(16)))",
}


def upgrade() -> None:
    """Three tables and an index; nothing that was there changes."""
    dialect = op.get_bind().dialect.name
    serial, key, id_ = _SERIAL[dialect]
    text = _TABLES.replace("{serial}", serial).replace("{key}", key).replace("{id}", id_)
    for statement in text.split(";\n"):
        op.execute(statement)
    op.execute(f"INSERT INTO incarnation (id, database_id, number) VALUES (1, {_NAMED[dialect]}, 1)")
    for event in ("UPDATE", "DELETE"):
        create(Guard(f"losses_no_{event.lower()}", "losses", event, "1 = 1", "losses is append-only"))
    create(
        Guard(
            "incarnation_forward",
            "incarnation",
            "UPDATE",
            "NEW.database_id <>? OLD.database_id OR NEW.number < OLD.number OR NEW.sends < OLD.sends",
            "R1: a database keeps its name, and its count of sends never goes back",
        )
    )
    create(Guard("incarnation_kept", "incarnation", "DELETE", "1 = 1", "R1: a database keeps its name"))


def downgrade() -> None:
    """Going back would forget what was lost."""
    raise NotImplementedError("restore a backup instead: going back would forget what history was lost")
