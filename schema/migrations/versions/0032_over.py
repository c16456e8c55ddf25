"""From its end on, a lot pays for nothing new: a wallet knows what is left of lots that are over and not booked."""

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

KNOWN = """
UPDATE ledger_accounts SET lots_over_ms = lots_ended_ms WHERE lots_ended_ms IS NOT NULL
"""
TO_END = """
UPDATE ledger_accounts SET next_due_ms = CASE WHEN next_due_ms < l.first_ms THEN next_due_ms ELSE l.first_ms END
FROM (
    SELECT o.customer_id, MIN(o.expires_ms) AS first_ms
    FROM ledger_lots o JOIN ledger_accounts w ON w.account_id = 'wallet\\:' || o.customer_id
    WHERE o.expires_ms IS NOT NULL AND (w.lots_ended_ms IS NULL OR w.lots_ended_ms < o.expires_ms)
    GROUP BY o.customer_id
) l WHERE ledger_accounts.account_id = 'wallet\\:' || l.customer_id
"""
"""What was given for later falls due as it begins, sooner than it ends."""
WAITS = "UPDATE ledger_accounts SET next_due_ms = 0 WHERE deferred_micro > 0"


def upgrade() -> None:
    """Wallets fall due as their lots end; those of which one is over and not booked, at once: whoever needs their
    balance next has them looked at, or the first sweep has. No balance changes."""
    op.execute(
        "ALTER TABLE ledger_accounts ADD COLUMN over_micro BIGINT DEFAULT 0 NOT NULL "
        "CONSTRAINT ledger_accounts_over CHECK (over_micro >= 0)"
    )
    op.execute("ALTER TABLE ledger_accounts ADD COLUMN lots_over_ms BIGINT")
    for statement in (KNOWN, TO_END, WAITS):
        op.execute(statement)


def downgrade() -> None:
    """What is over counts as available again until it is booked. The wallets fall due when they did."""
    op.execute("ALTER TABLE ledger_accounts DROP COLUMN lots_over_ms")
    op.execute("ALTER TABLE ledger_accounts DROP COLUMN over_micro")
