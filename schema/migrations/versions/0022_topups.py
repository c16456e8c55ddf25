"""Automatic top-ups: who is topped up at which terms, each charge, each call that may take money, the kill switch."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_FROZEN = " OR ".join(
    f"NEW.{column} <>? OLD.{column}"
    for column in (
        "topup", "customer_id", "episode", "credits_micro", "money_minor", "price_minor", "currency", "service",
        "service_customer", "max_day", "max_month", "at_ms", "begun_ms",
    )
)  # fmt: skip
GUARDS = (
    Guard("topup_terms_kept", "topup_terms", "DELETE", "1 = 1", "Terms of top-ups are stopped, never deleted"),
    Guard("topups_kept", "topups", "DELETE", "1 = 1", "A top-up is never deleted"),
    Guard("topups_frozen", "topups", "UPDATE", _FROZEN, "What a top-up charges never changes"),
    Guard(
        "topups_forward",
        "topups",
        "UPDATE",
        "NEW.attempts < OLD.attempts OR (NEW.state <> OLD.state AND (OLD.state IN ('credited', 'shadow') "
        "OR (OLD.state IN ('declined', 'needs_customer', 'given_up') AND NEW.state <> 'credited'))) "
        "OR (NEW.state <> OLD.state AND NEW.state = 'shadow') "
        "OR (OLD.state = 'credited' AND NEW.payment_id <>? OLD.payment_id)",
        "A top-up that ended stays so, unless it proves to be paid; it is credited once",
    ),
    Guard("topup_attempts_kept", "topup_attempts", "DELETE", "1 = 1", "A call that may take money is never forgotten"),
    Guard(
        "topup_attempts_frozen",
        "topup_attempts",
        "UPDATE",
        "OLD.outcome IS NOT NULL OR NEW.topup <>? OLD.topup OR NEW.attempt <>? OLD.attempt "
        "OR NEW.started_ms <>? OLD.started_ms OR NEW.owner <>? OLD.owner",
        "A call that may take money is answered once",
    ),
)


def upgrade() -> None:
    """Four new tables; none of them has rows."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    script = Path(__file__).with_name("0022.postgresql.sql" if postgresql else "0022.sqlite.sql")
    for statement in script.read_text(encoding="utf-8").split(";\n\n"):
        op.execute(statement.replace(":", "\\:"))
    for guard in GUARDS:
        create(guard)
    if postgresql:
        for table in ("topups", "topup_attempts"):
            op.execute(
                f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
            )


def downgrade() -> None:
    """What was charged would be forgotten, and charged again."""
    raise NotImplementedError("restore a backup instead: going back would forget who was charged")
