"""Plans give credit each month, and tiers are bought: the terms, who is on which plan since when, the lots that were
given, tiers and who holds them."""

from pathlib import Path

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

KEPT = {
    "plan_terms": "What plans give is append-only: what begins later goes by new terms",
    "plan_stays": "Who is on which plan is append-only: the next one ends it",
    "plan_lots": "plan_lots is append-only",
}
GUARDS = (
    *(
        Guard(f"{table}_no_{event.lower()}", table, event, "1 = 1", message)
        for table, message in KEPT.items()
        for event in ("UPDATE", "DELETE")
    ),
    Guard("tiers_kept", "tiers", "DELETE", "1 = 1", "A tier is never deleted"),
    Guard("tier_holders_kept", "tier_holders", "DELETE", "1 = 1", "Who bought a tier is never forgotten"),
    Guard(
        "tier_holders_forward",
        "tier_holders",
        "UPDATE",
        "NEW.customer_id <>? OLD.customer_id OR NEW.tier <>? OLD.tier OR NEW.paid_to_ms < OLD.paid_to_ms",
        "What is paid for of a tier is never less",
    ),
)
ENTRIES = tuple(
    Guard(f"ledger_entries_no_{event.lower()}", "ledger_entries", event, "1 = 1", "ledger_entries is append-only")
    for event in ("UPDATE", "DELETE")
)


def upgrade() -> None:
    """Plans give nothing yet. Whoever is on one stays on it, and falls due, so that its wallet knows of the next month
    from then on. Every entry is kept as it is; there may be another kind of them."""
    here, postgresql = Path(__file__), op.get_bind().dialect.name == "postgresql"
    scripts = ("0025.sql", "0025.postgresql.sql" if postgresql else "0025.sqlite.sql")
    for script in scripts:
        text = here.with_name(script).read_text(encoding="utf-8")
        for statement in text.replace("{id}", 'TEXT COLLATE "C"' if postgresql else "TEXT").split(";\n\n"):
            op.execute(statement.replace(":", "\\:"))
    for guard in (*GUARDS, *(() if postgresql else ENTRIES)):
        create(guard)
    for table in (*KEPT, "tiers", "tier_holders") if postgresql else ():
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """What plans gave would be given again."""
    raise NotImplementedError("restore a backup instead: going back would forget what plans gave")
