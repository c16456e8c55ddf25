"""Settled pushes may be folded into sums of a day; a push goes in no other way.

PostgreSQL asks for floors and sums once a statement, and no longer once a push. SQLite has guards of rows alone.
"""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0068"
down_revision = "0067"
branch_labels = None
depends_on = None

FLOOR = "COALESCE((SELECT floor_ms FROM orgs WHERE org_id = OLD.org_id), 0)"
SUM_OF = (
    "f.day_ms = {row}.window_ms - {row}.window_ms % 86400000 AND f.org_id = {row}.org_id "
    "AND f.provider = {row}.provider AND f.customer_id = {row}.customer_id AND f.feature = {row}.feature "
    "AND f.state = {row}.state"
)
PUSHES = Guard(
    "pushes_kept",
    "pushes",
    "DELETE",
    f"OLD.window_ms >= {FLOOR} OR NOT EXISTS (SELECT 1 FROM folded_pushes f WHERE {SUM_OF.format(row='OLD')})",
    "S3: a push is deleted only below its organisation's floor, as it is folded",
)
PUSHES_BEFORE = Guard(
    "pushes_kept",
    "pushes",
    "DELETE",
    f"OLD.window_ms >= {FLOOR}",
    "S3: a push is never deleted at or above its organisation's floor",
)
ATTEMPTS = Guard("attempts_kept", "attempts", "DELETE", f"OLD.window_ms >= {FLOOR}", "P1: attempts are evidence")
OF_STATEMENTS = {
    "pushes": (
        PUSHES.message,
        "SELECT 1 FROM gone g LEFT JOIN orgs o ON o.org_id = g.org_id LEFT JOIN folded_pushes f ON "
        f"{SUM_OF.format(row='g')} WHERE g.window_ms >= COALESCE(o.floor_ms, 0) OR f.org_id IS NULL",
    ),
    "attempts": (
        ATTEMPTS.message,
        "SELECT 1 FROM gone g LEFT JOIN orgs o ON o.org_id = g.org_id WHERE g.window_ms >= COALESCE(o.floor_ms, 0)",
    ),
}
SUMS = (
    Guard("folded_pushes_kept", "folded_pushes", "DELETE", "1 = 1", "S3: what was folded stays on record"),
    Guard(
        "folded_pushes_forward",
        "folded_pushes",
        "UPDATE",
        " OR ".join(
            f"NEW.{column} <> OLD.{column}"
            for column in ("day_ms", "org_id", "provider", "customer_id", "feature", "state")
        )
        + " OR NEW.pushes <= OLD.pushes OR NEW.attempts < OLD.attempts",
        "S3: what was folded is added to, and never changed",
    ),
)


def upgrade() -> None:
    """Nothing is folded yet."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0068.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)
    for guard in SUMS:
        create(guard)
    drop("pushes_kept", "pushes")
    if not postgresql:
        create(PUSHES)
        return
    drop("attempts_kept", "attempts")
    op.execute(
        "CREATE TRIGGER folded_pushes_never_truncated BEFORE TRUNCATE ON folded_pushes "
        "EXECUTE FUNCTION never_truncated()"
    )
    for table, (message, gone) in OF_STATEMENTS.items():
        words = message.replace("'", "''").replace(":", "\\:")
        op.execute(
            f"CREATE FUNCTION {table}_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF EXISTS ({gone}) THEN "
            f"RAISE EXCEPTION '{words}' USING ERRCODE = 'check_violation'; END IF; RETURN NULL; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_kept AFTER DELETE ON {table} REFERENCING OLD TABLE AS gone "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_kept()"
        )


def downgrade() -> None:
    """Only while nothing was folded: else charges would stand beside no push."""
    if op.get_bind().exec_driver_sql("SELECT COUNT(*) FROM folded_pushes").scalar():
        raise NotImplementedError("restore a backup instead: what was folded would be forgotten")
    drop("pushes_kept", "pushes")
    create(PUSHES_BEFORE)
    if op.get_bind().dialect.name == "postgresql":
        drop("attempts_kept", "attempts")
        create(ATTEMPTS)
    for guard in SUMS:
        drop(guard.name, guard.table)
    op.execute("DROP TABLE folded_pushes")
