"""Usage events: what each says, the meters of their types, and the samples by which they are billed.

A meter stands where a sample of a sandbox has its memory size, above every size. `problem` is computed anew, as by
0015: on a large database that takes about as long as reading all samples twice, and inserting waits for it.
"""

import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

KEPT = ("event_types", "usage_events")
GUARDS = (
    Guard("event_types_no_update", "event_types", "UPDATE", "1 = 1", "event_types is append-only"),
    Guard("event_types_no_delete", "event_types", "DELETE", "1 = 1", "event_types is append-only"),
    Guard("events_immutable", "usage_events", "UPDATE", "1 = 1", "S7: events never change; withdraw the event"),
    Guard(
        "events_with_samples",
        "usage_events",
        "DELETE",
        "EXISTS (SELECT 1 FROM usage_samples s WHERE s.id = OLD.sample_id)",
        "S4: an event is deleted with its sample alone",
    ),
)
GONE = "DELETE FROM usage_events WHERE sample_id = OLD.id"
"""What is pruned goes whole. On PostgreSQL by the owner's right: a worker may delete no event by itself."""

BOUND = "WHEN ts >= 4102444800000 THEN 'ts_not_milliseconds'"
"""Of 0015."""
SIZE = "memory_mb NOT BETWEEN 0 AND 16777216"
METER = "memory_mb BETWEEN 16777217 AND 16787216 AND cell_id IN ('events', 'runs')"
"""What no host writes by accident: one of the 10,000 meters, at what stands for the cell of an event or a run."""
DAY = "WHEN interval_s > 86400 "
MOST = "WHEN interval_s > CASE WHEN memory_mb > 16777216 THEN 1000000000000 ELSE 86400 END "

UNIT = "CONSTRAINT mappings_unit CHECK (unit IN ('s', 'mb_s'))"
UNITS = (
    "CONSTRAINT mappings_unit CHECK (unit IN ('s', 'mb_s', 'units'))",
    "CONSTRAINT mappings_meter CHECK ((unit = 'units') = COALESCE(memory_mb > 16777216, 1 = 0) "
    "AND (unit <> 'units' OR kind = 'exact'))",
)


def upgrade() -> None:
    """Samples keep their arrival. What was quarantined stays so."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0034.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)
    for table in KEPT if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )
    _change(_samples(postgresql, metered=True), _mappings(metered=True))
    for guard in GUARDS:
        create(guard)
    if postgresql:
        op.execute(
            "CREATE FUNCTION events_go_with_samples() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
            f"SET search_path = {_schema()}, pg_temp AS $$ BEGIN {GONE}; RETURN NULL; END $$"
        )
        op.execute("REVOKE EXECUTE ON FUNCTION events_go_with_samples() FROM PUBLIC")
    body = "EXECUTE FUNCTION events_go_with_samples()" if postgresql else f"BEGIN {GONE}; END"
    op.execute(
        "CREATE TRIGGER events_go_with_samples AFTER DELETE ON usage_samples FOR EACH ROW "
        f"WHEN (OLD.memory_mb > 16777216) {body}"
    )


def downgrade() -> None:
    """Only while there is no event type: else what was billed would be forgotten."""
    if op.get_bind().exec_driver_sql("SELECT COUNT(*) FROM event_types").scalar():
        raise NotImplementedError("restore a backup instead: going back would forget what was billed")
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute("DROP TRIGGER events_go_with_samples" + (" ON usage_samples" if postgresql else ""))
    if postgresql:
        op.execute("DROP FUNCTION events_go_with_samples()")
    for guard in GUARDS:
        drop(guard.name, guard.table)
    op.execute("DROP INDEX mappings_by_size")
    _change(_samples(postgresql, metered=False), _mappings(metered=False))
    for table in reversed(KEPT):
        op.execute(f"DROP TABLE {table}")


def _schema() -> str:
    return str(op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one())


def _samples(postgresql: bool, *, metered: bool) -> str:
    """The definition of `problem` (PostgreSQL), or of all of samples (SQLite), as the first schema has it."""
    dialect, pattern = (
        ("postgresql", r"(problem TEXT GENERATED .*? STORED)")
        if postgresql
        else ("sqlite", r"CREATE TABLE usage_samples (\(.*?\n\));")
    )
    text = _first(dialect, pattern)
    changes = {"    END)": f"        {BOUND}\n    END)"}
    if metered:
        changes |= {SIZE: f"({SIZE} AND NOT ({METER}))", DAY: MOST}
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _mappings(*, metered: bool) -> str:
    text = _first("sqlite", r"CREATE TABLE mappings (\(.*?\n\));")
    assert text.count(UNIT) == 1
    return text.replace(UNIT, ",\n    ".join(UNITS)) if metered else text


def _first(dialect: str, pattern: str) -> str:
    text = Path(__file__).with_name(f"0001.{dialect}.sql").read_text(encoding="utf-8")
    found = re.search(pattern, text, re.DOTALL)
    assert found is not None
    return found[1]


def _change(samples: str, mappings: str) -> None:
    """Samples and mappings as they are to be."""
    if op.get_bind().dialect.name != "postgresql":
        _copy("usage_samples", samples)
        _copy("mappings", mappings)
        return
    op.execute(f"ALTER TABLE usage_samples DROP COLUMN problem, ADD COLUMN {_escaped(samples)}")
    op.execute("CREATE INDEX usage_samples_problems ON usage_samples (problem) WHERE problem IS NOT NULL")
    if UNITS[0] in mappings:
        op.execute(f"ALTER TABLE mappings DROP CONSTRAINT mappings_unit, ADD {UNITS[0]}, ADD {UNITS[1]}")
    else:
        op.execute(f"ALTER TABLE mappings DROP CONSTRAINT mappings_meter, DROP CONSTRAINT mappings_unit, ADD {UNIT}")


def _copy(table: str, definition: str) -> None:
    """SQLite's tables cannot change a computed column or a constraint: a new one takes the name, with the indexes, the
    guards and the count of rows there ever were."""
    connection = op.get_bind()

    def rows(text: str) -> list[str]:
        return list(connection.execute(sa.text(text), {"name": table}).scalars())

    of_table = "FROM sqlite_master WHERE tbl_name = :name AND sql IS NOT NULL AND type"
    hung_on = rows(f"SELECT sql {of_table} = 'index'") + rows(f"SELECT sql {of_table} = 'trigger'")
    columns = ", ".join(rows("SELECT name FROM pragma_table_info(:name)"))  # computed ones are not among them
    op.execute("PRAGMA legacy_alter_table = ON")  # other tables' triggers name it: they follow the name
    op.execute(f"CREATE TABLE {table}_new {_escaped(definition)}")
    op.execute(f"INSERT INTO {table}_new ({columns}) SELECT {columns} FROM {table}")
    if rows("SELECT seq FROM sqlite_sequence WHERE name = :name"):
        op.execute(f"DELETE FROM sqlite_sequence WHERE name = '{table}_new'")
        op.execute(
            "INSERT INTO sqlite_sequence (name, seq) "
            f"SELECT '{table}_new', seq FROM sqlite_sequence WHERE name = '{table}'"
        )
    op.execute(f"DROP TABLE {table}")
    op.execute(f"ALTER TABLE {table}_new RENAME TO {table}")
    op.execute("PRAGMA legacy_alter_table = OFF")
    for statement in hung_on:
        op.execute(_escaped(statement))


def _escaped(text: str) -> str:
    return re.sub(r"(?<!\\):", r"\\:", text)
