"""What the operator's product is told: endpoints, messages, deliveries; the levels of balances and their episodes."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

GUARDS = (
    Guard("hook_endpoints_kept", "hook_endpoints", "DELETE", "1 = 1", "An endpoint is never deleted: it is ended"),
    Guard(
        "hook_endpoints_forward",
        "hook_endpoints",
        "UPDATE",
        "NEW.name <>? OLD.name OR NEW.created_ms <>? OLD.created_ms OR NEW.generation < OLD.generation "
        "OR OLD.ended_ms IS NOT NULL",
        "An endpoint ends once, and its secrets never come again",
    ),
    Guard("hook_messages_no_update", "hook_messages", "UPDATE", "1 = 1", "Messages are append-only"),
    Guard("hook_messages_no_delete", "hook_messages", "DELETE", "1 = 1", "Messages are append-only"),
    Guard("hook_deliveries_kept", "hook_deliveries", "DELETE", "1 = 1", "A delivery is never forgotten"),
    Guard(
        "hook_deliveries_forward",
        "hook_deliveries",
        "UPDATE",
        "NEW.message_id <>? OLD.message_id OR NEW.endpoint <>? OLD.endpoint OR NEW.attempts < OLD.attempts "
        "OR NEW.replays < OLD.replays OR (OLD.state <> 'due' AND NEW.replays = OLD.replays)",
        "A delivery that ended is due again by a replay alone",
    ),
    Guard("balance_levels_kept", "balance_levels", "DELETE", "1 = 1", "A level is set to none, never deleted"),
    Guard("balance_episodes_kept", "balance_episodes", "DELETE", "1 = 1", "An episode is never deleted"),
    Guard(
        "balance_episodes_end_once",
        "balance_episodes",
        "UPDATE",
        "NEW.org_id <>? OLD.org_id OR NEW.level <>? OLD.level OR NEW.episode <>? OLD.episode "
        "OR NEW.begun_ms <>? OLD.begun_ms OR OLD.ended_ms IS NOT NULL",
        "An episode never changes: it ends, once",
    ),
)
TABLES = ("hook_endpoints", "hook_messages", "hook_deliveries", "balance_levels", "balance_episodes")


def upgrade() -> None:
    """Five new tables; none of them has rows: what happened before is told nobody."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    script = Path(__file__).with_name("0024.sql").read_text(encoding="utf-8")
    for statement in script.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)
    for table in TABLES if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """What is due would never be told."""
    raise NotImplementedError("restore a backup instead: going back would forget what is still to be told")
