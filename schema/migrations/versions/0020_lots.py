"""Credit is given in lots: of a kind, with an order of use, a begin and an end."""

from alembic import op

from drawdown.schema.migrations.guards import Guard, create

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

LOTS = """
CREATE TABLE ledger_lots (
    lot {id} NOT NULL,
    customer_id {id} NOT NULL,
    kind TEXT NOT NULL,
    amount_micro BIGINT NOT NULL,
    priority INTEGER DEFAULT 50 NOT NULL,
    begins_ms BIGINT NOT NULL,
    expires_ms BIGINT,
    features TEXT,
    at_ms BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (lot),
    CONSTRAINT ledger_lots_kind CHECK (kind IN ('included', 'bonus', 'purchased', 'sponsor', 'refund')),
    CONSTRAINT ledger_lots_sane CHECK (amount_micro > 0 AND (expires_ms IS NULL OR expires_ms > begins_ms))
)
"""
OF_GRANTS = """
INSERT INTO ledger_lots (lot, customer_id, kind, amount_micro, begins_ms, at_ms, actor, reason)
SELECT key, SUBSTR(to_account, 8), 'purchased', amount_micro, ts, at_ms, actor, reason
FROM ledger_entries WHERE kind = 'grant' AND amount_micro > 0
"""
GUARDS = tuple(
    Guard(f"ledger_lots_no_{event.lower()}", "ledger_lots", event, "1 = 1", "ledger_lots is append-only")
    for event in ("UPDATE", "DELETE")
)


def upgrade() -> None:
    """What was given before is a lot that was bought and never expires. No balance changes."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    op.execute(LOTS.format(id='TEXT COLLATE "C"' if postgresql else "TEXT"))
    op.execute(OF_GRANTS)
    op.execute("CREATE INDEX ledger_lots_by_end ON ledger_lots (customer_id, expires_ms)")
    op.execute("CREATE INDEX ledger_lots_to_come ON ledger_lots (customer_id, begins_ms) WHERE begins_ms > at_ms")
    op.execute("ALTER TABLE ledger_accounts ADD COLUMN lots_ended_ms BIGINT")
    op.execute("ALTER TABLE ledger_accounts ADD COLUMN deferred_micro BIGINT DEFAULT 0 NOT NULL")
    op.execute("CREATE INDEX ledger_accounts_due ON ledger_accounts (next_due_ms) WHERE next_due_ms IS NOT NULL")
    for guard in GUARDS:
        create(guard)
    if postgresql:
        op.execute(
            "CREATE TRIGGER ledger_lots_never_truncated BEFORE TRUNCATE ON ledger_lots "
            "EXECUTE FUNCTION never_truncated()"
        )


def downgrade() -> None:
    """When credit ends, and for what it is, would be forgotten."""
    raise NotImplementedError("restore a backup instead: going back would forget when credit ends")
