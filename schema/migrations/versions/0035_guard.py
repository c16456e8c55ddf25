"""The guard: what it counts and at which price, what plans and people allow, what was used, counted and refused."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

KEPT = {
    "guard_metrics": "A metric's terms are append-only: the next number counts",
    "guard_limits": "Limits are append-only: the next number counts",
    "guard_corrections": "Corrections are append-only",
}
FROZEN = (
    "use_key", "org_id", "metric", "number", "month_ms", "metric_number", "asked", "decision", "would", "rule",
    "enforced", "limit_period", "limit_amount", "fingerprint", "at_ms", "actor", "reason",
)  # fmt: skip
ASKED = ("metric", "reach", "target", "period", "amount", "ends_ms", "at_ms", "actor", "reason")
GUARDS = (
    *(
        Guard(f"{table}_no_{event.lower()}", table, event, "1 = 1", message)
        for table, message in KEPT.items()
        for event in ("UPDATE", "DELETE")
    ),
    Guard("guard_uses_kept", "guard_uses", "DELETE", "1 = 1", "What was used is never deleted"),
    Guard(
        "guard_uses_frozen",
        "guard_uses",
        "UPDATE",
        " OR ".join(f"NEW.{name} <>? OLD.{name}" for name in FROZEN),
        "What was used never changes but by its end",
    ),
    Guard(
        "guard_uses_end_once",
        "guard_uses",
        "UPDATE",
        "OLD.state IN ('used', 'settled', 'released') OR (OLD.state = 'expired' AND NEW.state <> 'settled')",
        "A use ends once",
    ),
    Guard("guard_overrides_kept", "guard_overrides", "DELETE", "1 = 1", "An override is ended, never deleted"),
    Guard(
        "guard_overrides_frozen",
        "guard_overrides",
        "UPDATE",
        " OR ".join(f"NEW.{name} <>? OLD.{name}" for name in ("number", *ASKED)),
        "What an override allows never changes: make another one",
    ),
    Guard(
        "guard_overrides_forward",
        "guard_overrides",
        "UPDATE",
        "OLD.state IN ('refused', 'ended') OR (OLD.state = 'in_force' AND NEW.state <> 'ended')",
        "An override is decided once, and ends once",
    ),
    Guard("guard_counters_kept", "guard_counters", "DELETE", "1 = 1", "A counter is never deleted"),
    Guard("guard_denials_kept", "guard_denials", "DELETE", "1 = 1", "What was refused is never deleted, but added up"),
)
TABLES = (*KEPT, "guard_uses", "guard_overrides", "guard_counters", "guard_denials")


def upgrade() -> None:
    """Seven new tables, and nothing in them: the guard counts nothing until a metric is made."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    script = Path(__file__).with_name("0035.sql").read_text(encoding="utf-8")
    script = script.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT")
    for statement in script.replace("{serial}", "BIGSERIAL" if postgresql else "INTEGER").split(";\n\n"):
        op.execute(statement)
    for guard in GUARDS:
        create(guard)
    for table in TABLES if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """What was used would be forgotten, and its charges stand for nothing."""
    raise NotImplementedError("restore a backup instead: going back would forget what was used")
