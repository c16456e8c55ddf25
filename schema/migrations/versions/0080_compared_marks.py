"""Up to when what was settled has been compared with each provider, by customer."""

from alembic import op

revision = "0080"
down_revision = "0079"
branch_labels = None
depends_on = None

_LOOKED_BACK = 2 * 86_400_000
"""How far reconcile looked back before: what it compared last begins there."""


def upgrade() -> None:
    """Who was compared before is compared from then on; the others as far back as a first look goes."""
    order = ' COLLATE "C"' if op.get_bind().dialect.name == "postgresql" else ""
    op.execute(
        f"CREATE TABLE compared_marks (provider TEXT{order} NOT NULL, customer_id TEXT{order} NOT NULL, "
        "compared_ms BIGINT NOT NULL, open_days BIGINT NOT NULL, open_since_ms BIGINT, said TEXT NOT NULL, "
        "at_ms BIGINT NOT NULL, PRIMARY KEY (provider, customer_id))"
    )
    for customer, by in (("customer_id", "provider, customer_id"), ("''", "provider")):
        op.execute(
            "INSERT INTO compared_marks (provider, customer_id, compared_ms, open_days, open_since_ms, said, at_ms) "
            f"SELECT provider, {customer}, MAX(at_ms) - {_LOOKED_BACK}, 0, NULL, '', MAX(at_ms) FROM reconciliations "
            f"WHERE customer_id <> '' GROUP BY {by}"
        )


def downgrade() -> None:
    """Two days are compared, as before."""
    op.execute("DROP TABLE compared_marks")
