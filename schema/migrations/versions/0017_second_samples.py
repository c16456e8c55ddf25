"""A second sample with the id of one that is there changes nothing on SQLite either, however it is inserted.

`INSERT OR REPLACE` took the first one away without any guard being asked, as SQLite calls no DELETE trigger for it:
what was billed kept being billed, and the window it had stood in was not sealed again before the nightly sweep.
PostgreSQL has no such statement; there the primary key refuses, and `ON CONFLICT DO UPDATE` meets the guard.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

SAYS = ("cell_id", "cpu_count", "interval_s", "memory_mb", "org_id", "sandbox_id", "ts")
"""What a sample says, in the order of the importer's canonical JSON."""
CONTENT = ", ".join(
    f"'{name}', CASE typeof(NEW.{name}) WHEN 'blob' THEN quote(NEW.{name}) ELSE NEW.{name} END" for name in SAYS
)
SAME = " AND ".join(f"{name} IS NEW.{name}" for name in SAYS)
SEEN_MS = (
    "CASE typeof(NEW.ingested_at) WHEN 'integer' THEN NEW.ingested_at "
    "ELSE CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER) END"
)
# The first stays, and what the second one says otherwise is kept aside (S7). WHERE NOT EXISTS, as inside of a trigger
# `OR IGNORE` would become the `OR REPLACE` of the statement that fired it.
SECOND = f"""
CREATE TRIGGER samples_once BEFORE INSERT ON usage_samples FOR EACH ROW
WHEN EXISTS (SELECT 1 FROM usage_samples WHERE id = NEW.id)
BEGIN
    INSERT INTO sample_conflicts (sample_id, source, content, seen_ms)
        SELECT NEW.id, 'INSERT', json_object({CONTENT}), {SEEN_MS}
        WHERE NOT EXISTS (SELECT 1 FROM usage_samples WHERE id = NEW.id AND {SAME})
            AND NOT EXISTS (
                SELECT 1 FROM sample_conflicts WHERE sample_id = NEW.id AND content = json_object({CONTENT}));
    SELECT RAISE(IGNORE);
END
"""


def upgrade() -> None:
    """Takes no time, whatever is there."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(SECOND.replace(":", "\\:"))


def downgrade() -> None:
    """Replacing would change samples again."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER samples_once")
