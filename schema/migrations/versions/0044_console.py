"""The console: people with a role, who is signed in, and sign-ins that failed."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create, drop

revision = "0044"
down_revision = "0038"
branch_labels = None
depends_on = None

GUARDS = (
    Guard("console_users_no_delete", "console_users", "DELETE", "1 = 1", "A person of the console stays on record"),
    Guard(
        "console_users_forward",
        "console_users",
        "UPDATE",
        "NEW.name <> OLD.name OR NEW.created_ms <> OLD.created_ms OR OLD.ended_ms IS NOT NULL",
        "A person of the console is ended once, and a name stays one person's",
    ),
    Guard(
        "console_sessions_frozen",
        "console_sessions",
        "UPDATE",
        "NEW.session_sha256 <> OLD.session_sha256 OR NEW.name <> OLD.name OR NEW.began_ms <> OLD.began_ms "
        "OR NEW.seen_ms < OLD.seen_ms",
        "A session stays one person's, and never begins anew",
    ),
)
TABLES = ("console_users", "console_sessions", "console_failures", "console_marks")


def upgrade() -> None:
    """Nobody is in it: the console lets nobody in until a person is added."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    text = Path(__file__).with_name("0044.sql").read_text(encoding="utf-8")
    for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)
    if postgresql:
        op.execute(
            "CREATE TRIGGER console_users_never_truncated BEFORE TRUNCATE ON console_users "
            "EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """People would have to be added again; what they did stays in the audit."""
    for guard in GUARDS:
        drop(guard.name, guard.table)
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
